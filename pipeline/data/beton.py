"""FFCV .beton files: checked and read without FFCV, which crashes on a damaged one. beton_jpeg has those of JPEGs."""

import json
from collections.abc import Iterable
from dataclasses import dataclass
from hashlib import file_digest
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from pipeline.data.digest import Stored
from pipeline.errors import UserError

IMAGE, LABEL = "image", "label"

# The layout of FFCV 1.0.2 (ffcv/types.py, ffcv/fields/{rgb_image,ndarray}.py), little-endian.
_HEADER = np.dtype(
    [
        ("version", "<u2"),
        ("num_fields", "<u2"),
        ("page_size", "<u4"),
        ("num_samples", "<u8"),
        ("alloc_table_ptr", "<u8"),
    ],
    align=True,
)
_FIELD = np.dtype([("type_id", "<u1"), ("name", ("<u1", 16)), ("arguments", ("<u1", (1024,)))], align=True)
_RGB = np.dtype([("mode", "<u1"), ("width", "<u2"), ("height", "<u2"), ("data_ptr", "<u8")])
_RGB_SAMPLE = np.dtype([("image", _RGB), ("label", "<i8")], align=True)
_ARRAY_SAMPLE = np.dtype([("image", "<u8"), ("label", "<i8")], align=True)
_ARRAY = np.dtype([("shape", "<u8", 32), ("type_length", "<u8")])
_ALLOCATION = np.dtype([("sample_id", "<u8"), ("ptr", "<u8"), ("size", "<u8")])
_VERSION, _INT_FIELD, RGB_FIELD, _ARRAY_FIELD = 2, 1, 2, 4
_PAGE_SIZE = 1 << 23
JPG, RAW = 0, 1
"""Modes of an image in RGB_FIELD."""
_FLOAT = b'[["", "<f4"]]'
"""How FFCV describes a field of float32 arrays."""


@dataclass(frozen=True)
class Beton:
    """One split as a .beton file, with the facts its card pins."""

    path: Path
    samples: int
    height: int
    width: int
    dtype: str
    """uint8, as published, or float32, whitened."""
    sha256: str


@dataclass(frozen=True)
class Layout:
    """Where a file says its images and labels are."""

    height: int
    width: int
    dtype: np.dtype[np.uint8 | np.float32]
    pointers: npt.NDArray[np.int64]
    """[N], of the images' first bytes; all images lie inside the file."""
    labels: npt.NDArray[np.int64]

    @property
    def image_bytes(self) -> int:
        return self.height * self.width * 3 * self.dtype.itemsize


def sha256(path: Path) -> str:
    """Hex digest of a file's bytes."""
    with path.open("rb") as file:
        return file_digest(file, "sha256").hexdigest()


def open_card(folder: Path) -> dict[str, Any]:
    """card.json of a data/beton folder. Raises UserError when it is missing or no JSON."""
    path = folder / "card.json"
    try:
        card: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UserError(f"{path} not found", f"wrn-pipe repro convert@{folder.name}") from None
    except (json.JSONDecodeError, UnicodeDecodeError, RecursionError) as error:
        raise UserError(f"{path}: {error}", mend(folder)) from None
    return card


def open_split(folder: Path, split: str) -> Beton:
    """The .beton of a split, with its bytes, header and tables checked, also against the card.

    Raises UserError on any difference: FFCV itself reads on, or crashes.
    """
    card = open_card(folder)
    try:
        entry = card["splits"][split]
        numbers = entry["images"], entry["height"], entry["width"]
        dtype, pinned = entry.get("dtype", "uint8"), entry["beton"]["sha256"]
    except (KeyError, TypeError, AttributeError) as error:
        raise UserError(f"{folder / 'card.json'} does not describe {split}: {error!r}", mend(folder)) from None
    path = verified_file(folder, split, pinned)
    layout = inspect(path)
    found = len(layout.labels), layout.height, layout.width
    if numbers != found or dtype != layout.dtype.name:
        what = f"{path} has {found} {layout.dtype.name} images, {folder / 'card.json'} says {numbers} {dtype}"
        raise UserError(what, mend(folder))
    return Beton(path, *found, dtype=layout.dtype.name, sha256=pinned)


def verified_file(folder: Path, split: str, pinned: str) -> Path:
    """Where a split's file lies. Raises UserError when it does not, or its sha256 is not the pinned one."""
    path = folder / f"{split}.beton"
    if not path.is_file():
        raise UserError(f"{path} not found", f"wrn-pipe repro convert@{folder.name}")
    if sha256(path) != pinned:
        raise UserError(f"{path} is not the file that {folder / 'card.json'} describes", mend(folder))
    return path


@dataclass(frozen=True)
class Tables:
    """A file's header and first table, which have been found to be those of images with labels."""

    path: Path
    file: npt.NDArray[np.uint8]
    """All of it, not in memory."""
    allocations_at: int
    kind: int
    arguments: npt.NDArray[np.uint8]
    """Of the field of images."""
    images: npt.NDArray[Any]
    labels: npt.NDArray[np.int64]
    start: int
    """Of what follows the header's fields: no image lies before."""

    def refuse(self, what: str) -> UserError:
        return UserError(f"{self.path}: {what}", mend(self.path.parent))


def open_tables(path: Path) -> Tables:
    """Raises UserError where a header is not as `beton_writer.write` makes it, or its table lies outside the file."""

    def refuse(what: str) -> UserError:
        return UserError(f"{path}: {what}", mend(path.parent))

    size = path.stat().st_size
    start = _HEADER.itemsize + 2 * _FIELD.itemsize
    if size < start:
        raise refuse(f"{size} bytes is too short for a header")
    file = np.memmap(path, dtype=np.uint8, mode="r")
    header = file[: _HEADER.itemsize].view(_HEADER)[0]
    fields = file[_HEADER.itemsize : start].view(_FIELD)
    kind = int(fields["type_id"][0])
    if (
        header["version"] != _VERSION
        or header["num_fields"] != 2
        or kind not in (RGB_FIELD, _ARRAY_FIELD)
        or fields["type_id"][1] != _INT_FIELD
    ):
        raise refuse("its header is not that of an image and a label")
    record = _RGB_SAMPLE if kind == RGB_FIELD else _ARRAY_SAMPLE
    n = int(header["num_samples"])
    if n == 0 or start + n * record.itemsize > size:
        raise refuse(f"its table of {n} samples does not fit its {size} bytes")
    table = file[start : start + n * record.itemsize].view(record)
    at = int(header["alloc_table_ptr"])
    return Tables(path, file, at, kind, fields["arguments"][0], table["image"], table["label"].astype(np.int64), start)


def inspect(path: Path) -> Layout:
    """Read header and tables with numpy alone.

    Raises UserError where a field, mode, size or pointer is not as `beton_writer.write` makes it.
    """
    tables = open_tables(path)
    refuse, n, size = tables.refuse, len(tables.labels), len(tables.file)
    if tables.kind == RGB_FIELD:
        rgb = tables.images
        height, width = int(rgb["height"][0]), int(rgb["width"][0])
        if (rgb["mode"] != RAW).any() or (rgb["height"] != height).any() or (rgb["width"] != width).any():
            raise refuse("its images are not all raw and of one size")
        pointers = rgb["data_ptr"]
    else:
        arguments = tables.arguments
        array = arguments[: _ARRAY.itemsize].view(_ARRAY)[0]
        shape = [int(length) for length in array["shape"]]
        type_length = int(array["type_length"])
        described = arguments[_ARRAY.itemsize :][:type_length].tobytes()
        if type_length != len(_FLOAT) or described != _FLOAT or shape[2] != 3 or any(shape[3:]):
            raise refuse("its arrays are no float32 images of three channels")
        height, width = shape[:2]
        pointers = tables.images
    dtype: np.dtype[np.uint8 | np.float32] = np.dtype(np.uint8 if tables.kind == RGB_FIELD else "<f4")
    layout = Layout(height, width, dtype, pointers.astype(np.int64), tables.labels)
    # With Python's integers, which do not overflow; and images may not overlap, or a short file could fill the memory.
    first, last = int(pointers.min()), int(pointers.max())
    length = layout.image_bytes
    if length == 0 or first < tables.start or last + length > size or n * length > size:
        raise refuse("an image lies outside the file")
    if (allocation_sizes(tables, pointers) != length).any():
        raise refuse("its two tables disagree")
    return layout


def allocation_sizes(tables: Tables, pointers: npt.NDArray[np.uint64]) -> npt.NDArray[np.uint64]:
    """Bytes of each image, [N]: FFCV takes them from a second table at the file's end, one entry an image, in order.

    Raises UserError unless it lies there and has the images' `pointers`.
    """
    n, at = len(pointers), tables.allocations_at
    if at + n * _ALLOCATION.itemsize != len(tables.file):
        raise tables.refuse("its table of allocations does not end the file")
    allocations = tables.file[at:].view(_ALLOCATION)
    if (allocations["sample_id"] != np.arange(n)).any() or (allocations["ptr"] != pointers).any():
        raise tables.refuse("its two tables disagree")
    sizes: npt.NDArray[np.uint64] = allocations["size"]
    return sizes


def read(path: Path) -> tuple[Stored, npt.NDArray[np.int64]]:
    """Images uint8 or float32 [N,H,W,3] and labels int64 [N], both in memory. Raises UserError as `inspect` does."""
    layout = inspect(path)
    file = np.memmap(path, dtype=np.uint8, mode="r")
    n, length = len(layout.labels), layout.image_bytes
    images = np.empty((n, layout.height, layout.width, 3), dtype=layout.dtype)
    flat = images.reshape(n, -1).view(np.uint8)
    for first in range(0, n, 1000):
        block = layout.pointers[first : first + 1000]
        if (np.diff(block) == length).all():
            flat[first : first + len(block)] = file[block[0] : block[0] + len(block) * length].reshape(-1, length)
        else:
            for row, pointer in enumerate(block, start=first):
                flat[row] = file[pointer : pointer + length]
    return images, layout.labels


def write_encoded(
    to: Path,
    sides: npt.NDArray[np.int64],
    sizes: npt.NDArray[np.int64],
    labels: npt.ArrayLike,
    content: Iterable[bytes],
) -> None:
    """Write JPEGs that are encoded already, without FFCV: widths and heights [N, 2], bytes of each [N], labels [N], and
    the bytes, in pieces of any length.

    Laid out as FFCV's own files, but for the gaps that its pages leave. Raises ValueError unless all fits together.
    """
    n = len(sizes)
    table = _HEADER.itemsize + 2 * _FIELD.itemsize
    ends = table + n * _RGB_SAMPLE.itemsize + np.cumsum(sizes)
    header, fields = np.zeros(1, _HEADER), np.zeros(2, _FIELD)
    header["version"], header["num_fields"], header["page_size"], header["num_samples"] = _VERSION, 2, _PAGE_SIZE, n
    header["alloc_table_ptr"] = ends[-1]
    fields["type_id"] = RGB_FIELD, _INT_FIELD
    for field, name in zip(fields, (IMAGE, LABEL), strict=True):
        field["name"][: len(name)] = np.frombuffer(name.encode(), np.uint8)
    samples, allocations = np.zeros(n, _RGB_SAMPLE), np.zeros(n, _ALLOCATION)
    samples["image"]["mode"], samples["label"] = JPG, labels
    samples["image"]["width"], samples["image"]["height"] = sides.T
    samples["image"]["data_ptr"] = allocations["ptr"] = ends - sizes
    allocations["sample_id"], allocations["size"] = np.arange(n), sizes
    with to.open("wb") as file:
        for array in (header, fields, samples):
            array.tofile(file)
        file.writelines(content)
        if file.tell() != ends[-1]:
            raise ValueError(f"{to}: the sizes of the JPEGs say {ends[-1]} bytes, their content {file.tell()}")
        allocations.tofile(file)


def mend(folder: Path) -> str:
    return f"delete {folder} and run wrn-pipe repro convert@{folder.name}"
