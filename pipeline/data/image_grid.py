"""Grids of images, for people to look at."""

import numpy as np
import numpy.typing as npt
from PIL import Image

from pipeline.data.digest import Images, Labels

_ZOOM, _GAP, _PAPER = 3, 2, 255
_COLUMNS = 10
_RANGE = 3.0
"""Standard deviations from grey to black or white."""


def grid(rows: list[Images]) -> Image.Image:
    """A picture of rows of images uint8 [n, H, W, 3], enlarged without smoothing, on white."""
    lines = []
    for row in rows:
        padded = np.pad(row, ((0, 0), (_GAP, _GAP), (_GAP, _GAP), (0, 0)), constant_values=_PAPER)
        lines.append(np.concatenate(list(padded), axis=1))
    pixels = np.concatenate(lines).repeat(_ZOOM, axis=0).repeat(_ZOOM, axis=1)
    return Image.fromarray(pixels)


def visible(images: npt.NDArray[np.float32]) -> Images:
    """Floats of any range -> uint8: 0 is grey, and all images share one scale."""
    scale = max(float(images.std()), 1e-12) * _RANGE
    return np.clip(127.5 + 127.5 / scale * images.astype(np.float64), 0, 255).round().astype(np.uint8)


def before_and_after(before: Images, after: npt.NDArray[np.float32], labels: Labels, pairs: int = 4) -> Image.Image:
    """Pairs of rows: the published images above the whitened ones, the first images of the lowest classes."""
    classes = np.unique(labels)[:_COLUMNS]
    rows: list[Images] = []
    for pair in range(min(pairs, *(int((labels == label).sum()) for label in classes))):
        chosen = np.array([np.flatnonzero(labels == label)[pair] for label in classes])
        rows += [before[chosen], visible(after[chosen])]
    return grid(rows)
