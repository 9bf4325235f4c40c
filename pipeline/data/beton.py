"""FFCV .beton files, written and read with numpy alone.

The layout is that of FFCV 1.0.2 (ffcv/writer.py, memory_allocator.py, fields/), little-endian: a header, a description
of two fields, a row for each sample, pages of 8 MB that hold whole images, and a table of allocations. Files are byte
for byte those of FFCV's own writer with one worker, which hangs on an image that it cannot encode.
"""

import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from pipeline.data.digest import Stored, file_digest
from pipeline.errors import UserError
from pipeline.progress import progress

IMAGE, LABEL = "image", "label"
Kind = Literal["rgb", "zca", "jpeg"]
"""What an image is stored as: its bytes, whitened float32, or a JPEG of a size of its own."""
Ints = npt.NDArray[np.int64]

_HEADER = np.dtype(
    [("version", "<u2"), ("num_fields", "<u2"), ("page_size", "<u4"), ("num_samples", "<u8"), ("alloc_ptr", "<u8")]
)
_FIELD = np.dtype([("type_id", "<u1"), ("name", "S16"), ("arguments", "S1024")])
_RGB = np.dtype([("mode", "<u1"), ("width", "<u2"), ("height", "<u2"), ("data_ptr", "<u8")])
_RGB_SAMPLE = np.dtype([("image", _RGB), ("label", "<i8")], align=True)
_ARRAY_SAMPLE = np.dtype([("image", "<u8"), ("label", "<i8")], align=True)
_ARRAY = np.dtype([("shape", "<u8", 32), ("type_length", "<u8")])
_ALLOCATION = np.dtype([("sample_id", "<u8"), ("ptr", "<u8"), ("size", "<u8")])
_TABLE = _HEADER.itemsize + 2 * _FIELD.itemsize
"""Where the rows begin."""
_VERSION, _INT_FIELD, _RGB_FIELD, _ARRAY_FIELD = 2, 1, 2, 4
_PAGE = 1 << 23
_JPG, _RAW = 0, 1
_FLOAT = b'[["", "<f4"]]'
"""How FFCV describes a field of float32 arrays."""


@dataclass(frozen=True)
class Beton:
    """One split as a .beton file. Arrays are int64 [N], in the file's order: of the images' pixels, place and length in
    bytes, and labels."""

    path: Path
    kind: Kind
    heights: Ints
    widths: Ints
    pointers: Ints
    sizes: Ints
    labels: Ints


def sha256(path: Path) -> str:
    return file_digest(path, "sha256")


def open_card(folder: Path) -> dict[str, Any]:
    """card.json of a data/beton folder. Raises UserError when it is missing or not a JSON object."""
    path = folder / "card.json"
    try:
        return dict(json.loads(path.read_text(encoding="utf-8")))
    except FileNotFoundError:
        what = f"{path} not found"
    except (ValueError, TypeError) as error:
        what = f"{path}: {error}"
    raise UserError(what, f"wrn-pipe repro convert@{folder.name}")


def content(card: dict[str, Any], split: str) -> str:
    """The digest of a split: of its decoded pixels and labels, or of the files as published for JPEGs, which are stored
    re-encoded."""
    entry: dict[str, str] = card["splits"][split]
    return entry.get("source_digest") or entry["digest"]


def open_split(folder: Path, split: str) -> Beton:
    """The .beton of a split. Raises UserError when it is missing, or its sha256 is not the one in its card: FFCV itself
    reads on, or crashes."""
    path, card = folder / f"{split}.beton", open_card(folder)
    if path.is_file() and sha256(path) == card["splits"][split]["beton"]["sha256"]:
        return inspect(path)
    wrong = f"is not the file that {folder / 'card.json'} describes" if path.is_file() else "not found"
    raise UserError(f"{path} {wrong}", f"wrn-pipe repro convert@{folder.name}")


def inspect(path: Path) -> Beton:
    """Read header and tables of a file whose bytes are known to be right."""
    file = np.memmap(path, np.uint8, "r")
    header = file[: _HEADER.itemsize].view(_HEADER)[0]
    fields = file[_HEADER.itemsize : _TABLE].view(_FIELD)
    n, raw = int(header["num_samples"]), fields["type_id"][0] == _RGB_FIELD
    record = _RGB_SAMPLE if raw else _ARRAY_SAMPLE
    rows = file[_TABLE : _TABLE + n * record.itemsize].view(record)
    allocations = file[int(header["alloc_ptr"]) :].view(_ALLOCATION)
    if raw:
        kind: Kind = "jpeg" if rows["image"]["mode"][0] == _JPG else "rgb"
        heights, widths = rows["image"]["height"], rows["image"]["width"]
    else:
        kind = "zca"
        shape = np.frombuffer(fields["arguments"][0], _ARRAY, 1)["shape"][0]
        heights, widths = np.full(n, shape[0]), np.full(n, shape[1])
    arrays = [heights, widths, allocations["ptr"], allocations["size"], rows["label"]]
    return Beton(path, kind, *(array.astype(np.int64) for array in arrays))


def read(path: Path) -> tuple[Stored, Ints]:
    """Images uint8 or float32 [N,H,W,3] of kind rgb or zca, and labels int64 [N], both in memory."""
    beton = inspect(path)
    file = np.asarray(np.memmap(path, np.uint8, "r"))
    shape = len(beton.labels), int(beton.heights[0]), int(beton.widths[0]), 3
    images = np.empty(shape, np.uint8 if beton.kind == "rgb" else "<f4")
    for image, start, size in zip(images, beton.pointers, beton.sizes, strict=True):
        image.reshape(-1).view(np.uint8)[:] = file[start : start + size]
    return images, beton.labels


def write(to: Path, kind: Kind, sides: Ints, labels: npt.ArrayLike, images: Iterable[npt.NDArray[Any] | bytes]) -> None:
    """Write a file of N samples: `sides` int64 [N,2] widths and heights, `labels` [N], and the images in their order,
    each uint8 or float32 [H,W,3] or an encoded JPEG, of at most a page."""
    n = len(sides)
    header, fields, allocations = np.zeros(1, _HEADER), np.zeros(2, _FIELD), np.zeros(n, _ALLOCATION)
    rows = np.zeros(n, _ARRAY_SAMPLE if kind == "zca" else _RGB_SAMPLE)
    rows["label"] = labels
    fields["name"] = IMAGE, LABEL
    fields["type_id"] = _ARRAY_FIELD if kind == "zca" else _RGB_FIELD, _INT_FIELD
    if kind == "zca":
        pointers = rows["image"]
        array = np.zeros(1, _ARRAY)
        array["shape"][0, :3] = *sides[0, ::-1], 3
        array["type_length"] = len(_FLOAT)
        fields["arguments"][0] = array.tobytes() + _FLOAT
    else:
        pointers = rows["image"]["data_ptr"]
        rows["image"]["mode"] = _JPG if kind == "jpeg" else _RAW
        rows["image"]["width"], rows["image"]["height"] = sides.T
    allocations["sample_id"] = np.arange(n)
    at = _whole_pages(_TABLE + rows.nbytes)
    with to.open("wb") as file, progress(f"write {to.name}", n, "images") as task:
        file.seek(at)
        for place, image in zip(allocations, images, strict=True):
            content = image if isinstance(image, bytes) else image.tobytes()
            if at % _PAGE + len(content) > _PAGE:
                at = _whole_pages(at)
                file.seek(at)
            file.write(content)
            place["ptr"], place["size"] = at, len(content)
            at += len(content)
            task.advance()
        file.seek(_whole_pages(at))
        file.write(allocations.tobytes())
        header[0] = _VERSION, 2, _PAGE, n, _whole_pages(at)
        pointers[:] = allocations["ptr"]
        file.seek(0)
        for table in (header, fields, rows):
            file.write(table.tobytes())


def _whole_pages(size: int) -> int:
    return -(-size // _PAGE) * _PAGE
