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

from pipeline.data.beton import Beton, open_split, read
from pipeline.data.digest import Images, Stored
from pipeline.data.ffcv_loader import Ffcv
from pipeline.data.jpeg_store import decode
from pipeline.data.resized_crop import SIDE, RandomCrops, central_boxes, random_boxes
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
    slow to decode, one a core. Their number changes no byte. `beton` is what `open_split` has given for the split,
    where that has been asked already.
    """

    def __init__(
        self,
        folder: Path,
        split: str,
        batch_size: int,
        backend: Backend,
        workers: int | None = None,
        beton: Beton | None = None,
    ) -> None:
        self.beton = beton or open_split(folder, split)
        self.samples, self.batch_size = self.beton.samples, batch_size
        self._ffcv = Ffcv(self.beton, batch_size, workers) if backend == "ffcv" else None
        if backend == "numpy" and self.beton.kind != "jpeg":
            self._images, _ = read(self.beton.path)

    def batches(self, order: Ints, crops: RandomCrops | None = None) -> Iterator[Batch]:
        """Consecutive mini-batches of `order` (int64 indices into the split), the last one possibly smaller, each with
        copies of its B images.

        JPEGs are seen as `crops` draws it, or without it as a test sees them. Raises ValueError for indices that the
        split does not have, and for crops of images that are not JPEGs.
        """
        whole = self.views(order, crops)
        return (replace(batch, images=batch.images[batch.at], at=np.arange(len(batch.at))) for batch in whole)

    def views(self, order: Ints, crops: RandomCrops | None = None) -> Iterator[Batch]:
        """The same mini-batches, their images not copied: they may be overwritten when the next is asked for."""
        if len(order) and (order.min() < 0 or order.max() >= self.samples):
            raise ValueError(f"indices {order.min()}..{order.max()} do not lie in a split of {self.samples}")
        if crops and self.beton.kind != "jpeg":
            raise ValueError("these images are all of one size: a random resized crop is for JPEGs")
        parts = [order[start : start + self.batch_size] for start in range(0, len(order), self.batch_size)]
        if self._ffcv:
            seen = boxes(self.beton, order, crops) if self.beton.kind == "jpeg" else None
            delivered = zip(parts, self._ffcv.batches(order, seen), strict=True)
            return (Batch(part, images, np.arange(len(part)), labels) for part, (images, labels) in delivered)
        labels = self.beton.labels
        if self.beton.kind != "jpeg":
            return (Batch(part, self._images, part, labels[part]) for part in parts)
        return (
            Batch(part, views(self.beton, part, boxes(self.beton, part, crops)), np.arange(len(part)), labels[part])
            for part in parts
        )


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
