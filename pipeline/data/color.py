"""Color jitter and PCA lighting of ImageNet's training images, as fb.resnet.torch does them, from hashed draws.

fb.resnet.torch (datasets/imagenet.lua, transforms.lua) has values in [0,1]; here they stay in 0..255, since every
operation is linear, and the lighting is scaled instead. Nothing is clipped. Its flip comes afterwards; here before,
which gives the same bits: a pixel's new value depends on the pixel and on a mean that is exact in any order.
"""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import torch

from pipeline.data.counter_rng import Stream, below, draw, unit

Ints = npt.NDArray[np.int64]
Float32 = npt.NDArray[np.float32]
Float64 = npt.NDArray[np.float64]

BRIGHTNESS, CONTRAST, SATURATION = range(3)
ORDERS = np.array([(0, 1, 2), (0, 2, 1), (1, 0, 2), (1, 2, 0), (2, 0, 1), (2, 1, 0)])
STRENGTH = 0.4
"""Blend factors are uniform on 1 - STRENGTH..1 + STRENGTH."""
LIGHTING = 0.1
"""Standard deviation of the lighting amounts."""
EIGENVALUES = (0.2175, 0.0188, 0.0045)
EIGENVECTORS = ((-0.5675, 0.7192, 0.4009), (-0.5808, -0.0045, -0.8140), (-0.5836, -0.6948, 0.4203))
"""Of the covariance of ImageNet's RGB values in [0,1]: a row for each of R, G, B, a column for each eigenvalue."""
_GREY = (0.299, 0.587, 0.114)
_UNIFORMS = 12
_STEPS = 2.0**32
"""Grey values are summed as whole numbers of 1 / _STEPS: 224 x 224 of up to 42,000 each stay below 2**63."""


def coefficients(seed: int, epoch: int, indices: Ints) -> tuple[Ints, Float32, Float64]:
    """What is done to each of the B images `indices`, the same on every machine.

    Returns int64 [B,3], which of BRIGHTNESS, CONTRAST, SATURATION is first, second and third; float32 [B,3], the blend
    factors of these three by their own number; float64 [B,3], the amounts of lighting along the three eigenvectors.
    An amount is N(0, LIGHTING) as the sum of twelve uniform draws less 6, at most 6 standard deviations: logarithms and
    cosines are rounded differently by every library.
    """
    orders = ORDERS[below(draw(seed, Stream.JITTER_ORDER, epoch, indices), len(ORDERS))]
    draws = [draw(seed, s, epoch, indices) for s in (Stream.BRIGHTNESS, Stream.CONTRAST, Stream.SATURATION)]
    factors = (1 - STRENGTH + 2 * STRENGTH * unit(np.stack(draws, axis=1))).astype(np.float32)
    which = indices[:, None] * (3 * _UNIFORMS) + np.arange(3 * _UNIFORMS)
    # Whole numbers, so that their sum is exact in any order.
    sums = (draw(seed, Stream.LIGHTING, epoch, which) >> np.uint64(32)).reshape(-1, 3, _UNIFORMS).sum(axis=2)
    return orders, factors, LIGHTING * (sums.astype(np.float64) * 2.0**-32 - _UNIFORMS / 2)


def apply(images: torch.Tensor, orders: torch.Tensor, factors: torch.Tensor, lighting: torch.Tensor) -> torch.Tensor:
    """float32 [B,H,W,3], RGB of 0..255 -> the same, jittered and lit by `coefficients`, all on one device. Waits for
    nothing. Every operation is rounded by itself, so all devices give the same bits."""
    for jitter in orders.unbind(1):
        grey = _weighted(images.unbind(3), _GREY)
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
