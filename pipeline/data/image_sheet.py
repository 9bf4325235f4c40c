"""A picture of a dataset for people: images as published and as a training sees them."""

from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw, ImageFont

from pipeline.data.augmentation import flips, offsets
from pipeline.data.digest import Images
from pipeline.data.loader import Loader

COLUMNS = 10
MARGIN, TITLE, LABEL = 160, 34, 26
"""Pixels for the names of the rows, for the line on top, and for the line of labels above each block of rows."""
_ZOOM, _GAP = 3, 6

Rows = dict[str, Images]
"""Name of a row -> its images uint8 [B, H, W, 3]: one row of pictures for each name, the same samples in all."""


def augmented_rows(images: Images, indices: npt.NDArray[np.int64], seed: int, epoch: int, zca: Path | None) -> Rows:
    """The chosen images before and after flip and crop, drawn per image as the training draws them; and, from a
    data/beton folder of whitened images, what a training on these is given: moved in the same way."""
    import torch

    from pipeline.data.batches import augment

    moves = flips("per-image", seed, epoch, indices), *offsets("per-image", seed, epoch, indices, 0)
    places = [torch.from_numpy(each) for each in (np.arange(len(indices)), *moves)]
    published = np.asarray(images[indices])
    rows = {"as published": published, "flipped, cropped": augment(torch.from_numpy(published), *places).numpy()}
    if zca is not None:
        (batch,) = Loader(zca, "train", len(indices), "numpy").batches(indices)
        rows["the same, whitened"] = visible(augment(torch.from_numpy(batch.images), *places).numpy())
    return rows


def sheet(title: str, rows: Rows, labels: npt.NDArray[np.int64]) -> Image.Image:
    """`rows` in blocks of COLUMNS images, the label above each image and the rows' names on the left."""
    side = [_ZOOM * pixels for pixels in next(iter(rows.values())).shape[2:0:-1]]
    width, height = (pixels + 2 * _GAP for pixels in side)
    columns, block = min(COLUMNS, len(labels)), LABEL + len(rows) * height
    canvas = Image.new("RGB", (MARGIN + columns * width, TITLE + -(-len(labels) // columns) * block), "white")
    drawn, font = ImageDraw.Draw(canvas), ImageFont.load_default(size=15)

    def write(x: float, y: float, text: str, anchor: str = "lm") -> None:
        drawn.text((x, y), text, fill=(30, 30, 30), font=font, anchor=anchor)

    write(8, TITLE / 2, title)
    for n, label in enumerate(labels):
        left, top = MARGIN + n % columns * width, TITLE + n // columns * block
        write(left + width / 2, top + LABEL / 2, str(label), "mm")
        if n % columns == 0:
            write(8, top + LABEL / 2, "label")
        for row, (name, images) in enumerate(rows.items()):
            y = top + LABEL + row * height
            if n % columns == 0:
                write(8, y + height / 2, name)
            canvas.paste(Image.fromarray(images[n]).resize(side, Image.Resampling.NEAREST), (left + _GAP, y + _GAP))
    return canvas


def visible(images: npt.NDArray[np.float32]) -> Images:
    """Floats of any range -> uint8: 0 is grey, 3 standard deviations of them all are black or white."""
    scale = max(3 * float(images.std()), 1e-12)
    return np.clip(127.5 + 127.5 / scale * images.astype(np.float64), 0, 255).round().astype(np.uint8)
