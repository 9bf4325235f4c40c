"""A picture of a dataset for people: images as published and as a training sees them."""

from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw

from pipeline.data.digest import Images

COLUMNS, LINE = 10, 24
"""Images in a row of the picture, and pixels for a line of text."""
_ZOOM, _GAP = 3, 6

Rows = dict[str, Images]
"""Name of a row -> its images uint8 [B, H, W, 3]: one row of pictures for each name, the same samples in all."""


def augmented_rows(images: Images, indices: npt.NDArray[np.int64], seed: int, epoch: int, zca: Path | None) -> Rows:
    """The chosen images before and after flip and crop, drawn per image as the training draws them; and, from a
    data/beton folder of whitened images, what a training on these is given: moved in the same way."""
    import torch

    from pipeline.data.augmentation import flips, offsets
    from pipeline.data.batches import augment
    from pipeline.data.loader import Loader

    moves = flips("per-image", seed, epoch, indices), *offsets("per-image", seed, epoch, indices, 0)
    places = torch.from_numpy(np.stack([np.arange(len(indices)), *moves]))
    published = np.asarray(images[indices])
    rows = {"as published": published, "flipped, cropped": augment(torch.from_numpy(published), *places).numpy()}
    if zca is not None:
        (batch,) = Loader(zca, "train", len(indices), "numpy").batches(indices)
        rows["the same, whitened"] = visible(augment(torch.from_numpy(batch.images), *places).numpy())
    return rows


def sheet(title: str, rows: Rows, labels: npt.NDArray[np.int64]) -> Image.Image:
    """`rows` in blocks of COLUMNS images, the label above each image; on top the title and what the rows are."""
    height, width = (_ZOOM * pixels + 2 * _GAP for pixels in next(iter(rows.values())).shape[1:3])
    block = LINE + len(rows) * height
    canvas = Image.new("RGB", (COLUMNS * width, LINE + -(-len(labels) // COLUMNS) * block), "white")
    drawn = ImageDraw.Draw(canvas)
    drawn.text((_GAP, _GAP), f"{title}: {', '.join(rows)}, below their labels", "black")
    for n, label in enumerate(labels):
        left, top = n % COLUMNS * width + _GAP, LINE + n // COLUMNS * block + _GAP
        drawn.text((left, top), str(label), "black")
        for row, images in enumerate(rows.values()):
            image = Image.fromarray(images[n])
            size = _ZOOM * image.width, _ZOOM * image.height
            canvas.paste(image.resize(size, Image.Resampling.NEAREST), (left, top + LINE + row * height))
    return canvas


def visible(images: npt.NDArray[np.float32]) -> Images:
    """Floats of any range -> uint8: 0 is grey, 3 standard deviations of them all are black or white."""
    scale = max(3 * float(images.std()), 1e-12)
    return np.clip(127.5 + 127.5 / scale * images.astype(np.float64), 0, 255).round().astype(np.uint8)
