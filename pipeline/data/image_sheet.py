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
_INK, _ZOOM, _GAP = (30, 30, 30), 3, 2

Rows = dict[str, Images]
"""Name of a row -> its images uint8 [B, H, W, 3]: one row of pictures for each name, the same samples in all."""


def augmented_rows(images: Images, indices: npt.NDArray[np.int64], seed: int, epoch: int, zca: Path | None) -> Rows:
    """The chosen images before and after flip and crop, drawn per image as the training draws them; and, from a
    data/beton folder of whitened images, what a training on these is given: moved in the same way."""
    moves = flips("per-image", seed, epoch, indices), *offsets("per-image", seed, epoch, indices, 0)
    published = np.asarray(images[indices])
    rows = {"as published": published, "flipped, cropped": augment(published, *moves).astype(np.uint8)}
    if zca is not None:
        (batch,) = Loader(zca, "train", len(indices), "numpy").batches(indices)
        rows["the same, whitened"] = visible(augment(batch.images, *moves).astype(np.float32))
    return rows


def sheet(title: str, rows: Rows, labels: npt.NDArray[np.int64]) -> Image.Image:
    """`rows` in blocks of COLUMNS images, the label above each image and the rows' names on the left."""
    cells = np.stack(list(rows.values()), axis=1)  # [B, rows, H, W, 3]
    cells = np.pad(cells, ((0, 0), (0, 0), (_GAP, _GAP), (_GAP, _GAP), (0, 0)), constant_values=255)
    cells = cells.repeat(_ZOOM, axis=2).repeat(_ZOOM, axis=3)
    columns, (height, width) = min(COLUMNS, len(cells)), cells.shape[2:4]
    columns_of_rows = cells.reshape(len(cells), -1, width, 3)
    blank = -len(cells) % columns
    blocks = np.pad(columns_of_rows, ((0, blank), (LABEL, 0), (0, 0), (0, 0)), constant_values=255)
    block = blocks.shape[1]
    grid = blocks.reshape(-1, columns, block, width, 3).transpose(0, 2, 1, 3, 4).reshape(-1, columns * width, 3)
    canvas = Image.fromarray(np.pad(grid, ((TITLE, 0), (MARGIN, 0), (0, 0)), constant_values=255))
    drawn, font = ImageDraw.Draw(canvas), ImageFont.load_default(size=15)
    drawn.text((8, 8), title, fill=_INK, font=font)
    for n, label in enumerate(labels):
        place = MARGIN + (n % columns + 0.5) * width, TITLE + n // columns * block + LABEL / 2
        drawn.text(place, str(label), fill=_INK, font=font, anchor="mm")
    for top in range(TITLE, canvas.height, block):
        drawn.text((8, top + LABEL / 2), "label", fill=_INK, font=font, anchor="lm")
        for row, name in enumerate(rows):
            drawn.text((8, top + LABEL + (row + 0.5) * height), name, fill=_INK, font=font, anchor="lm")
    return canvas


def visible(images: npt.NDArray[np.float32]) -> Images:
    """Floats of any range -> uint8: 0 is grey, 3 standard deviations of them all are black or white."""
    scale = max(3 * float(images.std()), 1e-12)
    return np.clip(127.5 + 127.5 / scale * images.astype(np.float64), 0, 255).round().astype(np.uint8)
