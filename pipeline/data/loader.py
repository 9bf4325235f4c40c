"""Mini-batches of stored images in an order of ours, by FFCV or by plain numpy: equal bytes from both, JPEGs apart.

Of JPEGs both see the same boxes, scaled by OpenCV's INTER_AREA. Their pixels differ by a few grey levels, since FFCV
decodes with libjpeg-turbo's fast integer transform and Pillow with the accurate one: results belong to the backend,
which run.json names.
"""

import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from pipeline.data.augmentation import SIDE, RandomCrops, central_boxes, random_boxes
from pipeline.data.beton import Beton, open_split, read
from pipeline.data.digest import Images, Stored
from pipeline.data.ffcv_loader import Ffcv
from pipeline.data.jpeg_store import decode
from pipeline.params import Backend

Ints = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Batch:
    """B samples: which, images uint8 or float32 [N,H,W,3] as stored (JPEGs: uint8 [N,224,224,3] as seen), where among
    these each sample's is, int64 [B], and labels int64 [B]."""

    indices: Ints
    images: Stored
    at: Ints
    labels: Ints


class Loader:
    """Delivers the samples of one split in any order asked for. Open it once: FFCV compiles for seconds.

    `workers` is FFCV's number of reading threads, at most the number of cores; None takes one, or for JPEGs, which are
    slow to decode, one a core. Their number changes no byte.
    """

    def __init__(self, folder: Path, split: str, batch_size: int, backend: Backend, workers: int | None = None) -> None:
        self.beton = open_split(folder, split)
        self.samples, self.batch_size = self.beton.samples, batch_size
        self._ffcv = Ffcv(self.beton, batch_size, workers) if backend == "ffcv" else None
        if backend == "numpy" and self.beton.kind != "jpeg":
            self._images, _ = read(self.beton.path)

    def batches(self, order: Ints, crops: RandomCrops | None = None) -> Iterator[Batch]:
        """Consecutive mini-batches of `order` (int64 indices into the split), the last one possibly smaller, each with
        copies of its B images. JPEGs are seen as `crops` draws it, or without it as a test sees them."""
        whole = self.views(order, crops)
        return (replace(batch, images=batch.images[batch.at], at=np.arange(len(batch.at))) for batch in whole)

    def views(self, order: Ints, crops: RandomCrops | None = None) -> Iterator[Batch]:
        """The same mini-batches, their images not copied: they may be overwritten when the next is asked for."""
        jpeg = self.beton.kind == "jpeg"
        parts = [order[start : start + self.batch_size] for start in range(0, len(order), self.batch_size)]
        if self._ffcv:
            images = self._ffcv.batches(order, boxes(self.beton, order, crops) if jpeg else None)
        elif jpeg:
            images = (views(self.beton, part, boxes(self.beton, part, crops)) for part in parts)
        else:
            return (Batch(part, self._images, part, self.beton.labels[part]) for part in parts)
        delivered = zip(parts, images, strict=True)
        return (Batch(part, seen, np.arange(len(part)), self.beton.labels[part]) for part, seen in delivered)


def boxes(beton: Beton, order: Ints, crops: RandomCrops | None) -> Ints:
    """int64 [len(order), 4]: top, left, height, width seen of each sample of `order`; None for the test view."""
    heights, widths = beton.heights[order], beton.widths[order]
    return central_boxes(heights, widths) if crops is None else random_boxes(crops, order, heights, widths)


def views(beton: Beton, indices: Ints, seen: Ints) -> Images:
    """uint8 [B, 224, 224, 3]: the samples `indices` cut to the boxes `seen` [B, 4], by Pillow, with a thread a core."""
    import cv2

    content = np.memmap(beton.path, dtype=np.uint8, mode="r")

    def view(i: int, box: Ints) -> npt.NDArray[Any]:
        start = beton.pointers[i]
        pixels = decode(content[start : start + beton.sizes[i]].tobytes(), f"{beton.path}: image {i}")
        top, left, height, width = box
        cut = pixels[top : top + height, left : left + width]
        return cv2.resize(cut, (SIDE, SIDE), interpolation=cv2.INTER_AREA)

    with ThreadPoolExecutor(os.cpu_count()) as pool:
        return np.stack(list(pool.map(view, indices, seen)))
