"""What of an image a training sees, as functions of sample indices.

CIFAR and SVHN: a horizontal flip, and a crop from a pad of 4 reflected pixels (paper, section 3). ImageNet's images of
any size: a box that is scaled to 224 x 224, by the public recipe (torchvision's RandomResizedCrop): 8 to 100 % of the
area, aspect ratio log-uniform between 3/4 and 4/3, up to ten attempts, then the largest central box of an allowed
ratio. Every operation on boxes is on integers, or is one that IEEE 754 rounds correctly (+, *, square root), so they
are the same on every machine.

Their color jitter and PCA lighting are those of fb.resnet.torch (datasets/imagenet.lua, transforms.lua), which has
values in [0,1]; here they stay in 0..255, since every operation is linear, and the lighting is scaled instead. Nothing
is clipped. Its flip comes afterwards; here before, which gives the same bits: a pixel's new value depends on the pixel
and on a mean that is exact in any order.
"""

import math
from collections.abc import Callable, Sequence
from functools import cache
from typing import assert_never

import numpy as np
import numpy.typing as npt
import torch

from pipeline.data.sampler import Ints, Stream, below, draw, unit
from pipeline.params import Crop, Flip

PAD = 4
"""Pixels of reflection on each side (authors' code; the paper's text says only "random crop from padded")."""
SIDE = 224
"""Of what the network sees of images of any size, in pixels."""
ATTEMPTS = 10

BRIGHTNESS, CONTRAST, SATURATION = range(3)
ORDERS = np.array([(0, 1, 2), (0, 2, 1), (1, 0, 2), (1, 2, 0), (2, 0, 1), (2, 1, 0)])
STRENGTH = 0.4
"""Blend factors are uniform on 1 - STRENGTH..1 + STRENGTH."""
LIGHTING = 0.1
"""Standard deviation of the lighting amounts."""
EIGENVALUES = (0.2175, 0.0188, 0.0045)
EIGENVECTORS = ((-0.5675, 0.7192, 0.4009), (-0.5808, -0.0045, -0.8140), (-0.5836, -0.6948, 0.4203))
"""Of the covariance of ImageNet's RGB values in [0,1]: a row for each of R, G, B, a column for each eigenvalue."""
_UNIFORMS = 12
_STEPS = 2.0**32
"""Grey values are summed as whole numbers of 1 / _STEPS: 224 x 224 of up to 42,000 each stay below 2**63."""

Boxes = Callable[[Ints, Ints, Ints], Ints]
"""What is seen of the images of these indices, heights and widths [B]: int64 [B, 4], each one's top, left, height and
width in pixels."""


def flips(kind: Flip, seed: int, epoch: int, indices: Ints, batch_size: int | None = None) -> npt.NDArray[np.bool_]:
    """bool, as `indices`: which images to mirror. half-batch mirrors the half of each batch with the lowest draws.
    `indices` are one batch, or several of `batch_size` each, the last one possibly smaller."""
    mirrored = np.zeros(len(indices), dtype=np.bool_)
    if kind == "none":
        return mirrored
    bits = draw(seed, Stream.FLIP, epoch, indices)
    if kind == "per-image":
        return np.greater_equal(bits, np.uint64(1 << 63))
    if kind != "half-batch":
        assert_never(kind)
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
    where = {"per-image": indices, "per-batch": np.full(len(indices), batch, dtype=np.int64)}[kind]
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


def random_boxes(seed: int, epoch: int, indices: Ints, heights: Ints, widths: Ints) -> Ints:
    """The Boxes of a training epoch."""

    def drawn(stream: Stream, which: Ints) -> npt.NDArray[np.uint64]:
        return draw(seed, stream, epoch, which)

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


def central_boxes(_: Ints, heights: Ints, widths: Ints) -> Ints:
    """The Boxes of a test: what remains when the shorter side is scaled to 256 and the central 224 x 224 cut."""
    side = np.maximum(np.minimum(heights, widths) * SIDE // 256, 1)
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


def color_draws(seed: int, epoch: int, indices: Ints) -> tuple[Ints, npt.NDArray[np.float32], npt.NDArray[np.float64]]:
    """What is done to each of the B images `indices`, the same on every machine.

    Returns int64 [B,3], which of BRIGHTNESS, CONTRAST, SATURATION is first, second and third; float32 [B,3], the blend
    factors of these three by their own number; float64 [B,3], the amounts of lighting along the three eigenvectors:
    N(0, LIGHTING) as the sum of twelve uniform draws less 6, since logarithms are rounded differently by every library.
    """
    orders = ORDERS[below(draw(seed, Stream.JITTER_ORDER, epoch, indices), len(ORDERS))]
    draws = [draw(seed, s, epoch, indices) for s in (Stream.BRIGHTNESS, Stream.CONTRAST, Stream.SATURATION)]
    factors = (1 - STRENGTH + 2 * STRENGTH * unit(np.stack(draws, axis=1))).astype(np.float32)
    which = indices[:, None] * (3 * _UNIFORMS) + np.arange(3 * _UNIFORMS)
    # Whole numbers, so that their sum is exact in any order.
    sums = (draw(seed, Stream.LIGHTING, epoch, which) >> np.uint64(32)).reshape(-1, 3, _UNIFORMS).sum(axis=2)
    return orders, factors, LIGHTING * (sums.astype(np.float64) * 2.0**-32 - _UNIFORMS / 2)


def colored(images: torch.Tensor, orders: torch.Tensor, factors: torch.Tensor, lighting: torch.Tensor) -> torch.Tensor:
    """float32 [B,H,W,3], RGB of 0..255 -> the same, jittered and lit by `color_draws`, all on one device. Waits for
    nothing. Every operation is rounded by itself, so all devices give the same bits."""
    for jitter in orders.unbind(1):
        grey = _weighted(images.unbind(3), (0.299, 0.587, 0.114))
        # In whole numbers the sum is the same in any order, which differs between devices and numbers of threads.
        total = (grey * _STEPS).long().sum(dim=(1, 2), keepdim=True)
        # Not divided: by a number a GPU multiplies with its reciprocal, and a CPU does not.
        mean = (total.double() * (1 / (_STEPS * grey[0].numel()))).float()
        kind, factor = jitter[:, None, None], factors.gather(1, jitter[:, None])[:, :, None]
        other = torch.where(kind == SATURATION, grey, torch.where(kind == CONTRAST, mean, torch.zeros_like(mean)))
        images = (images * factor[..., None]).add_((other * (1 - factor))[..., None])
    amounts = [amount * (255 * value) for amount, value in zip(lighting.unbind(1), EIGENVALUES, strict=True)]
    shift = torch.stack([_weighted(amounts, vector) for vector in EIGENVECTORS], dim=1).float()
    return images.add_(shift[:, None, None, :])


def _weighted(parts: Sequence[torch.Tensor], weights: Sequence[float]) -> torch.Tensor:
    """The weighted sum of three tensors, from left to right."""
    return parts[0] * weights[0] + parts[1] * weights[1] + parts[2] * weights[2]
