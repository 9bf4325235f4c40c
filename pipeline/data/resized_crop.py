"""Which box of an image of any size the network sees at 224 x 224: drawn for training, central for testing.

The draw is that of the public ImageNet recipe (torchvision's RandomResizedCrop): 8 to 100 % of the area, aspect ratio
log-uniform between 3/4 and 4/3, up to ten attempts, then the largest central box of an allowed ratio. Every operation
is on integers, or is one that IEEE 754 rounds correctly (+, *, square root), so boxes are the same on every machine.
"""

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from pipeline.data.counter_rng import Stream, below, draw, unit

SIDE = 224
"""Of what the network sees, in pixels."""
SHORTER_SIDE = 256
"""To which a test image is scaled before its central SIDE x SIDE pixels are cut."""
ATTEMPTS = 10
SMALLEST_AREA = 0.08

Ints = npt.NDArray[np.int64]


@dataclass(frozen=True)
class RandomCrops:
    """The training view of one epoch."""

    seed: int
    epoch: int


def random_boxes(crops: RandomCrops, indices: Ints, heights: Ints, widths: Ints) -> Ints:
    """int64 [B, 4]: top, left, height, width of the box of each of the images `indices`, of sizes [B], in pixels."""
    boxes = _largest_central(heights, widths)
    waiting = np.arange(len(indices))
    for attempt in range(ATTEMPTS):
        H, W = heights[waiting], widths[waiting]
        which = indices[waiting] * ATTEMPTS + attempt
        area = (H * W) * (
            SMALLEST_AREA + (1 - SMALLEST_AREA) * unit(draw(crops.seed, Stream.BOX_AREA, crops.epoch, which))
        )
        ratio = _ratio(draw(crops.seed, Stream.BOX_RATIO, crops.epoch, which))
        h, w = _rounded(np.sqrt(area / ratio)), _rounded(np.sqrt(area * ratio))
        fits = (h > 0) & (h <= H) & (w > 0) & (w <= W)
        chosen = waiting[fits]
        corners = (
            below(draw(crops.seed, stream, crops.epoch, indices[chosen]), room[fits])
            for stream, room in ((Stream.BOX_TOP, H - h + 1), (Stream.BOX_LEFT, W - w + 1))
        )
        boxes[chosen] = np.stack([*corners, h[fits], w[fits]], axis=1)
        waiting = waiting[~fits]
    return boxes


def central_boxes(heights: Ints, widths: Ints) -> Ints:
    """int64 [B, 4]: what remains of the image when its shorter side is scaled to 256 and the central 224 x 224 cut."""
    side = np.maximum(np.minimum(heights, widths) * SIDE // SHORTER_SIDE, 1)
    return np.stack([(heights - side) // 2, (widths - side) // 2, side, side], axis=1)


def _largest_central(heights: Ints, widths: Ints) -> Ints:
    """The whole image, or where it is too wide or too high its largest central box of ratio 4/3 or 3/4."""
    h, w = np.minimum(heights, (8 * widths + 3) // 6), np.minimum(widths, (8 * heights + 3) // 6)
    return np.stack([(heights - h) // 2, (widths - w) // 2, h, w], axis=1)


def _ratio(bits: npt.NDArray[np.uint64]) -> npt.NDArray[np.float64]:
    """Log-uniform on [3/4, 4/3) in 65,536 steps, width by height. A product of successive square roots of 16/9: exp and
    log are rounded differently by every library."""
    ratio = np.full(bits.shape, 0.75)
    factor = 16 / 9
    for place in range(63, 47, -1):
        factor = math.sqrt(factor)
        ratio = np.where((bits >> np.uint64(place)) & np.uint64(1), ratio * factor, ratio)
    return ratio


def _rounded(x: npt.NDArray[np.float64]) -> Ints:
    return np.floor(x + 0.5).astype(np.int64)
