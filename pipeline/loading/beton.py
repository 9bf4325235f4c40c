"""Uncompressed images as FFCV .beton files: written by FFCV, read back and checked without it."""

import json
import multiprocessing
import os
import time
from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import file_digest
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from pipeline.errors import UserError, WrnPipeError
from pipeline.progress import progress

IMAGE, LABEL = "image", "label"

# The layout of FFCV 1.0.2 (ffcv/types.py, ffcv/fields/rgb_image.py), little-endian.
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
_SAMPLE = np.dtype([("image", _RGB), ("label", "<i8")], align=True)
_VERSION, _INT_FIELD, _RGB_FIELD, _RAW = 2, 1, 2, 1

_STALL_SECONDS = 600
"""A writer that adds no byte for so long has hung: FFCV waits for ever for a worker that died."""


@dataclass(frozen=True)
class Beton:
    """One split as a .beton file, with the facts its card pins."""

    path: Path
    samples: int
    height: int
    width: int
    sha256: str


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
    except json.JSONDecodeError as error:
        raise UserError(f"{path}: {error}", f"delete {folder} and run wrn-pipe repro convert@{folder.name}") from None
    return card


def open_split(folder: Path, split: str) -> Beton:
    """The .beton of a split, its bytes checked against the card: FFCV itself crashes on a damaged file."""
    entry = open_card(folder)["splits"][split]
    beton = Beton(folder / f"{split}.beton", entry["images"], entry["height"], entry["width"], entry["beton"]["sha256"])
    if not beton.path.is_file():
        raise UserError(f"{beton.path} not found", f"wrn-pipe repro convert@{folder.name}")
    if sha256(beton.path) != beton.sha256:
        raise UserError(
            f"{beton.path} is not the file that {folder / 'card.json'} describes",
            f"delete {folder} and run wrn-pipe repro convert@{folder.name}",
        )
    return beton


class _Samples:
    """What FFCV's writer takes: an indexable of (image, label)."""

    def __init__(self, images: npt.NDArray[np.uint8], labels: npt.NDArray[np.int64]) -> None:
        self.images, self.labels = images, labels

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, i: int) -> tuple[npt.NDArray[np.uint8], int]:
        return self.images[i], int(self.labels[i])


def _write(jobs: Sequence["Job"]) -> None:
    # The writer's own bar would be drawn over ours; its errors still come through the exit code and the traceback.
    os.environ["TQDM_DISABLE"] = "1"
    from ffcv.fields import IntField, RGBImageField
    from ffcv.writer import DatasetWriter

    for job in jobs:
        samples = _Samples(np.load(job.images, mmap_mode="r"), np.load(job.labels))
        # One worker: with more, pages are booked first come and equal data gives different bytes.
        writer = DatasetWriter(str(job.to), {IMAGE: RGBImageField(write_mode="raw"), LABEL: IntField()}, num_workers=1)
        writer.from_indexed_dataset(samples, chunksize=1000)


@dataclass(frozen=True)
class Job:
    """One file to write: images uint8 [N,H,W,3] and labels int64 [N] as .npy files, and the .beton they become."""

    images: Path
    labels: Path
    to: Path


def write(jobs: Sequence[Job]) -> None:
    """Write raw-mode .beton files, complete when this returns.

    In a process of its own, since FFCV's writer hangs when its worker dies; one process for all, since importing FFCV
    takes seconds. Raises UserError for arrays that are no images, WrnPipeError when the writer fails or stalls.
    """
    expected = 0
    for job in jobs:
        array = np.load(job.images, mmap_mode="r")
        if array.dtype != np.uint8 or array.ndim != 4 or array.shape[3] != 3:
            what = f"{job.images}: {array.dtype} {array.shape} is not uint8 [N,H,W,3]"
            raise UserError(what, "run wrn-pipe repro download")
        expected += array.nbytes
    process = multiprocessing.get_context("spawn").Process(target=_write, args=(jobs,))
    process.start()
    try:
        _watch(process, [job.to for job in jobs], expected)
    finally:
        if process.is_alive():
            process.kill()
        process.join()
    if process.exitcode != 0:
        what = f"FFCV's writer ended with {process.exitcode} on {jobs[0].to.parent.name}"
        raise WrnPipeError(what, "see the lines above; check wrn-pipe doctor")


def _watch(process: "multiprocessing.process.BaseProcess", files: Sequence[Path], expected: int) -> None:
    seen, since = 0, time.monotonic()
    with progress("write .beton", total=expected, unit="bytes") as task:
        while process.is_alive():
            process.join(0.2)
            size = min(sum(file.stat().st_size for file in files if file.exists()), expected)
            if size > seen:
                task.advance(size - seen)
                seen, since = size, time.monotonic()
            elif time.monotonic() - since > _STALL_SECONDS:
                what = f"FFCV's writer has stalled at {seen} bytes"
                raise WrnPipeError(what, "check memory and disk, then run it again")
        if process.exitcode == 0:
            task.advance(expected - seen)


def read(path: Path) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.int64]]:
    """Images uint8 [N,H,W,3] (a view of the mapped file where samples are evenly spaced) and labels int64 [N].

    Reads the raw layout with numpy alone. Raises UserError where a field, mode, size or pointer is not as `write` makes
    it.
    """

    def refuse(what: str) -> UserError:
        return UserError(f"{path}: {what}", f"delete {path.parent} and run wrn-pipe repro convert@{path.parent.name}")

    size = path.stat().st_size
    start = _HEADER.itemsize + 2 * _FIELD.itemsize
    if size < start:
        raise refuse(f"{size} bytes is too short for a header")
    file = np.memmap(path, dtype=np.uint8, mode="r")
    header = file[: _HEADER.itemsize].view(_HEADER)[0]
    fields = file[_HEADER.itemsize : start].view(_FIELD)
    n = int(header["num_samples"])
    if (
        header["version"] != _VERSION
        or header["num_fields"] != 2
        or list(fields["type_id"]) != [_RGB_FIELD, _INT_FIELD]
    ):
        raise refuse("its header is not that of an image and a label")
    if n == 0 or start + n * _SAMPLE.itemsize > size:
        raise refuse(f"its table of {n} samples does not fit its {size} bytes")
    table = file[start : start + n * _SAMPLE.itemsize].view(_SAMPLE)
    rgb = table["image"]
    height, width = int(rgb["height"][0]), int(rgb["width"][0])
    if (rgb["mode"] != _RAW).any() or (rgb["height"] != height).any() or (rgb["width"] != width).any():
        raise refuse("its images are not all raw and of one size")
    pointers = rgb["data_ptr"].astype(np.int64)
    pixels = height * width * 3
    if pointers.min() < start or pointers.max() + pixels > size:
        raise refuse("an image lies outside the file")
    images = np.empty((n, height, width, 3), dtype=np.uint8)
    flat = images.reshape(n, pixels)
    for first in range(0, n, 1000):
        block = pointers[first : first + 1000]
        if (np.diff(block) == pixels).all():
            flat[first : first + len(block)] = file[block[0] : block[0] + len(block) * pixels].reshape(
                len(block), pixels
            )
        else:
            for row, pointer in enumerate(block, start=first):
                flat[row] = file[pointer : pointer + pixels]
    return images, table["label"].astype(np.int64)
