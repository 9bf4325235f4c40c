"""Decode SVHN's cropped digits (format 2: three MATLAB files) to {split: (images uint8 [N, 32, 32, 3], labels int64
[N])}: the training split is train_32x32.mat followed by extra_32x32.mat, as in the paper.

Memory: the split's array and one file's, so 1.86 + 1.63 GB at the peak for the published files, when extra is copied
behind train (measured at a quarter of that size: 0.46 + 0.39 GB). What a file declares is compared with the dataset
before any of its data is read.
"""

import struct
import zlib
from collections.abc import Iterable
from pathlib import Path

import numpy as np
from scipy.io import loadmat, whosmat
from scipy.io.matlab import MatReadError

from pipeline.data.digest import Images, Labels
from pipeline.data.readers import Splits, check
from pipeline.dataset_config import SPLITS, Dataset, SourceError, Split

PARTS: dict[Split, tuple[str, ...]] = {"train": ("train_32x32.mat", "extra_32x32.mat"), "test": ("test_32x32.mat",)}
"""File names, in the order in which they make up a split."""

_CHUNK = 10_000
"""Images transposed at a time."""

# What scipy raises on bytes that are no MATLAB file, or one of a newer kind (NotImplementedError).
BROKEN_MAT = (
    MatReadError,
    NotImplementedError,
    OSError,
    EOFError,
    ValueError,
    TypeError,
    KeyError,
    IndexError,
    OverflowError,
    MemoryError,
    AttributeError,
    UnboundLocalError,
    struct.error,
    zlib.error,
)


def read_mats(files: Iterable[Path], dataset: Dataset) -> Splits:
    """Decode the three files, which are told apart by their names. Their md5 must have been verified before.

    Raises SourceError with one line for a file that is missing, or is not what the dataset's entry says.
    """
    named = {file.name: file for file in files}
    if missing := [name for parts in PARTS.values() for name in parts if name not in named]:
        raise SourceError(f"lacks {', '.join(missing)}")
    splits = {split: _read_split([named[name] for name in PARTS[split]], split, dataset) for split in SPLITS}
    check(splits, dataset)
    return splits


def _read_split(files: list[Path], split: Split, dataset: Dataset) -> tuple[Images, Labels]:
    counts = [_declared(file, dataset) for file in files]
    if sum(counts) != dataset.splits[split]:
        raise SourceError(f"{split}: {' + '.join(map(str, counts))} images, not {dataset.splits[split]}")
    images = np.empty((sum(counts), *dataset.image_shape), np.uint8)
    labels = np.empty(sum(counts), np.int64)
    start = 0
    for file, count in zip(files, counts, strict=True):
        _fill(file, images[start : start + count], labels[start : start + count])
        start += count
    return images, labels


def _declared(file: Path, dataset: Dataset) -> int:
    """Images that a file declares. Raises SourceError unless it declares X and y of the right shape and type."""
    try:
        held = {name: (tuple(shape), kind) for name, shape, kind in whosmat(file)}
    except BROKEN_MAT as error:
        raise SourceError(f"{file.name}: no readable MATLAB file: {error}") from error
    shape, kind = held.get("X", ((), "nothing"))
    if len(shape) != 4 or shape[:3] != dataset.image_shape or kind != "uint8":
        raise SourceError(f"{file.name}: X is {kind} {shape}, not uint8 {(*dataset.image_shape, 'N')}")
    if held.get("y") != ((shape[3], 1), "uint8"):
        raise SourceError(f"{file.name}: y is {held.get('y')}, not uint8 {(shape[3], 1)}")
    return int(shape[3])


def _fill(file: Path, images: Images, labels: Labels) -> None:
    """Decode one file into `images` and `labels`."""
    try:
        content = loadmat(file, variable_names=["X", "y"])
    except BROKEN_MAT as error:
        raise SourceError(f"{file.name}: no readable MATLAB file: {error}") from error
    X, y = content["X"], content["y"]
    for start in range(0, len(images), _CHUNK):
        images[start : start + _CHUNK] = X[..., start : start + _CHUNK].transpose(3, 0, 1, 2)
    if y.min() < 1 or y.max() > 10:
        raise SourceError(f"{file.name}: labels {y.min()}..{y.max()}, not 1..10")
    # MATLAB counts from 1, and the digit 0 comes last.
    labels[:] = y.reshape(-1) % 10
