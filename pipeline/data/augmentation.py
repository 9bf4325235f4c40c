"""What of an image a training sees, as functions of sample indices.

CIFAR and SVHN: a horizontal flip, and a crop from a pad of 4 reflected pixels (paper, section 3). ImageNet's images of
any size: a box that is scaled to 224 x 224, by the public recipe (torchvision's RandomResizedCrop): 8 to 100 % of the
area, aspect ratio log-uniform between 3/4 and 4/3, up to ten attempts, then the largest central box of an allowed
ratio. Every operation on boxes is on integers, or is one that IEEE 754 rounds correctly (+, *, square root), so they
are the same on every machine.
"""

import math
from dataclasses import dataclass
from functools import cache

import numpy as np
import numpy.typing as npt

from pipeline.data.counter_rng import Stream, below, draw, unit
from pipeline.params import Crop, Flip

PAD = 4
"""Pixels of reflection on each side (authors' code; the paper's text says only "random crop from padded")."""
SIDE = 224
"""Of what the network sees of images of any size, in pixels."""
SHORTER_SIDE = 256
"""To which a test image is scaled before its central SIDE x SIDE pixels are cut."""
ATTEMPTS = 10

Ints = npt.NDArray[np.int64]


def flips(kind: Flip, seed: int, epoch: int, indices: Ints, batch_size: int | None = None) -> npt.NDArray[np.bool_]:
    """bool, as `indices`: which images to mirror. half-batch mirrors the half of each batch with the lowest draws.
    `indices` are one batch, or several of `batch_size` each, the last one possibly smaller."""
    mirrored = np.zeros(len(indices), dtype=np.bool_)
    if kind == "none":
        return mirrored
    bits = draw(seed, Stream.FLIP, epoch, indices)
    if kind == "per-image":
        return np.greater_equal(bits, np.uint64(1 << 63))
    size = batch_size or max(len(indices), 1)
    for start in range(0, len(indices), size):
        batch = bits[start : start + size]
        mirrored[start + np.argsort(batch, kind="stable")[: len(batch) // 2]] = True
    return mirrored


def offsets(kind: Crop, seed: int, epoch: int, indices: Ints, batch: int | Ints) -> tuple[Ints, Ints]:
    """Rows and columns int64, as `indices`, each in 0..2*PAD: the crop's corner in the padded image, PAD the centre.

    per-batch draws one pair for mini-batch number `batch` of the epoch, as the authors' May 2016 code does; an array
    holds each image's batch.
    """
    if kind in ("none", "random-resized"):  # the loader has cropped what is random-resized
        unmoved = np.full(len(indices), PAD, dtype=np.int64)
        return unmoved, unmoved
    where = indices if kind == "per-image" else np.full(len(indices), batch, dtype=np.int64)
    rows, columns = (below(draw(seed, s, epoch, where), 2 * PAD + 1) for s in (Stream.CROP_ROW, Stream.CROP_COLUMN))
    return rows, columns


@cache
def sources(height: int, width: int) -> tuple[Ints, Ints]:
    """Source rows int64 [2*PAD+1, height] for each offset, and source columns [2, 2*PAD+1, width] of a plain and of a
    mirrored image."""

    def shifted(size: int) -> Ints:
        padded = np.pad(np.arange(size), PAD, mode="reflect")
        return np.stack([padded[offset : offset + size] for offset in range(2 * PAD + 1)])

    across = shifted(width)
    return shifted(height), np.stack([across, width - 1 - across])


@dataclass(frozen=True)
class RandomCrops:
    """The boxes of one training epoch."""

    seed: int
    epoch: int


def random_boxes(crops: RandomCrops, indices: Ints, heights: Ints, widths: Ints) -> Ints:
    """int64 [B, 4]: top, left, height, width of the box of each of the images `indices`, of sizes [B], in pixels."""

    def drawn(stream: Stream, which: Ints) -> npt.NDArray[np.uint64]:
        return draw(crops.seed, stream, crops.epoch, which)

    # Where no attempt fits: the whole image, or its largest central box of ratio 4/3 or 3/4.
    h, w = np.minimum(heights, (8 * widths + 3) // 6), np.minimum(widths, (8 * heights + 3) // 6)
    boxes = np.stack([(heights - h) // 2, (widths - w) // 2, h, w], axis=1)
    waiting = np.arange(len(indices))
    for attempt in range(ATTEMPTS):
        H, W = heights[waiting], widths[waiting]
        which = indices[waiting] * ATTEMPTS + attempt
        area = (H * W) * (0.08 + (1 - 0.08) * unit(drawn(Stream.BOX_AREA, which)))
        ratio = _ratio(drawn(Stream.BOX_RATIO, which))
        h, w = (np.floor(np.sqrt(side) + 0.5).astype(np.int64) for side in (area / ratio, area * ratio))
        fits = (h > 0) & (h <= H) & (w > 0) & (w <= W)
        h, w, chosen = h[fits], w[fits], waiting[fits]
        top = below(drawn(Stream.BOX_TOP, indices[chosen]), heights[chosen] - h + 1)
        left = below(drawn(Stream.BOX_LEFT, indices[chosen]), widths[chosen] - w + 1)
        boxes[chosen] = np.stack([top, left, h, w], axis=1)
        waiting = waiting[~fits]
    return boxes


def central_boxes(heights: Ints, widths: Ints) -> Ints:
    """int64 [B, 4]: what remains of the image when its shorter side is scaled to 256 and the central 224 x 224 cut."""
    side = np.maximum(np.minimum(heights, widths) * SIDE // SHORTER_SIDE, 1)
    return np.stack([(heights - side) // 2, (widths - side) // 2, side, side], axis=1)


def _ratio(bits: npt.NDArray[np.uint64]) -> npt.NDArray[np.float64]:
    """Log-uniform on [3/4, 4/3) in 65,536 steps, width by height. A product of successive square roots of 16/9: exp and
    log are rounded differently by every library."""
    ratio = np.full(bits.shape, 0.75)
    factor = 16 / 9
    for place in range(63, 47, -1):
        factor = math.sqrt(factor)
        ratio = np.where((bits >> np.uint64(place)) & np.uint64(1), ratio * factor, ratio)
    return ratio
