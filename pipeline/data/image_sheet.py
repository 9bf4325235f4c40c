"""A picture of a dataset for people: images as published and as a training sees them."""

from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw, ImageFont

from pipeline.data.augmentation import augment, flips, offsets
from pipeline.data.digest import Images
from pipeline.data.loader import Loader

COLUMNS = 10
MARGIN, TITLE, LABEL = 160, 34, 26
"""Pixels for the names of the rows, for the line on top, and for the line of labels above each block of rows."""

_INK, _PAPER = (30, 30, 30), (255, 255, 255)
_ZOOM, _GAP = 3, 2
_RANGE = 3.0
"""Standard deviations from grey to black or white."""

Rows = dict[str, Images]
"""Name of a row -> its images uint8 [B, H, W, 3]: one row of pictures for each name, the same samples in all."""


def augmented_rows(images: Images, indices: npt.NDArray[np.int64], seed: int, epoch: int, zca: Path | None) -> Rows:
    """The chosen images before and after flip and crop, drawn per image as the training draws them; and, from a
    data/beton folder of whitened images, what a training on these is given: moved in the same way."""
    mirrored = flips("per-image", seed, epoch, indices)
    rows, columns = offsets("per-image", seed, epoch, indices, 0)
    published = np.asarray(images[indices])
    shown = {"as published": published, "flipped, cropped": augment(published, mirrored, rows, columns)}
    if zca is not None:
        (batch,) = Loader(zca, "train", len(indices), "numpy").batches(indices)
        white = augment(batch.images, mirrored, rows, columns)
        shown["the same, whitened"] = visible(white.astype(np.float32))
    return {name: moved.astype(np.uint8) for name, moved in shown.items()}


def sheet(title: str, rows: Rows, labels: npt.NDArray[np.int64]) -> Image.Image:
    """`rows` in blocks of COLUMNS images, the label above each image and the rows' names on the left."""
    font = ImageFont.load_default(size=15)
    blocks = [slice(start, start + COLUMNS) for start in range(0, len(labels), COLUMNS)]
    pictures = [[_strip(images[block]) for images in rows.values()] for block in blocks]
    height = pictures[0][0].height
    block_height = LABEL + height * len(rows)
    size = MARGIN + pictures[0][0].width, TITLE + block_height * len(blocks)
    drawn = ImageDraw.Draw(canvas := Image.new("RGB", size, _PAPER))
    drawn.text((8, 8), title, fill=_INK, font=font)
    for number, (block, lines) in enumerate(zip(blocks, pictures, strict=True)):
        top = TITLE + number * block_height
        cell = lines[0].width / len(labels[block])
        drawn.text((8, top + LABEL / 2), "label", fill=_INK, font=font, anchor="lm")
        for column, label in enumerate(labels[block]):
            place = MARGIN + (column + 0.5) * cell, top + LABEL / 2
            drawn.text(place, str(label), fill=_INK, font=font, anchor="mm")
        for row, (name, line) in enumerate(zip(rows, lines, strict=True)):
            at = top + LABEL + row * height
            canvas.paste(line, (MARGIN, at))
            drawn.text((8, at + height / 2), name, fill=_INK, font=font, anchor="lm")
    return canvas


def _strip(images: Images) -> Image.Image:
    """Images uint8 [n, H, W, 3] side by side, enlarged without smoothing, on white."""
    padded = np.pad(images, ((0, 0), (_GAP, _GAP), (_GAP, _GAP), (0, 0)), constant_values=255)
    return Image.fromarray(np.concatenate(list(padded), axis=1).repeat(_ZOOM, axis=0).repeat(_ZOOM, axis=1))


def visible(images: npt.NDArray[np.float32]) -> Images:
    """Floats of any range -> uint8: 0 is grey, and all images share one scale."""
    scale = max(float(images.std()), 1e-12) * _RANGE
    return np.clip(127.5 + 127.5 / scale * images.astype(np.float64), 0, 255).round().astype(np.uint8)
