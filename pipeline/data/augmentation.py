"""Horizontal flip and random crop from a 4-pixel reflection pad (paper, section 3), as functions of sample indices."""

from functools import cache

import numpy as np
import numpy.typing as npt

from pipeline.data.counter_rng import Stream, below, draw
from pipeline.data.digest import Stored
from pipeline.params import Crop, Flip

PAD = 4
"""Pixels of reflection on each side (authors' code; the paper's text says only "random crop from padded")."""

Ints = npt.NDArray[np.int64]


def flips(kind: Flip, seed: int, epoch: int, indices: Ints, batch_size: int | None = None) -> npt.NDArray[np.bool_]:
    """bool, as `indices`: which images to mirror. half-batch mirrors the half of each batch with the lowest draws.
    `indices` are one batch, or several of `batch_size` each, the last one possibly smaller."""
    if kind == "none":
        return np.zeros(len(indices), dtype=np.bool_)
    bits = draw(seed, Stream.FLIP, epoch, indices)
    if kind == "per-image":
        return np.greater_equal(bits, np.uint64(1 << 63))
    mirrored = np.zeros(len(indices), dtype=np.bool_)
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
def sources(size: int) -> tuple[Ints, Ints]:
    """Source coordinates int64 [2*PAD+1, size] for each offset, and the same for a mirrored image."""
    padded = np.pad(np.arange(size), PAD, mode="reflect")
    straight = np.stack([padded[offset : offset + size] for offset in range(2 * PAD + 1)])
    return straight, size - 1 - straight


def augment(images: Stored, mirrored: npt.NDArray[np.bool_], rows: Ints, columns: Ints) -> Stored:
    """[B,H,W,3] -> the same shape and dtype: flip, then reflect-pad and crop at (rows, columns). Values only change
    places, so bytes and whitened floats go the same way."""
    height, width = images.shape[1:3]
    ys = sources(height)[0][rows]
    straight, reverse = sources(width)
    xs = np.where(mirrored[:, None], reverse[columns], straight[columns])
    pixel = ys[:, :, None] * width + xs[:, None, :] + np.arange(len(images))[:, None, None] * (height * width)
    cropped: Stored = images.reshape(-1, images.shape[3]).take(pixel, axis=0)
    return cropped
