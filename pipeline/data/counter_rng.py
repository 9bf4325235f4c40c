"""Random numbers without a generator: 64 hashed bits for each (seed, stream, epoch, index).

Every draw is a pure function of its coordinates, so order and augmentation are the same for any number of workers,
after any interruption, and in any language with 64-bit integers.
"""

from enum import IntEnum

import numpy as np
import numpy.typing as npt

UInt64 = npt.NDArray[np.uint64]


Stream = IntEnum(
    "Stream",
    "ORDER FLIP CROP_ROW CROP_COLUMN INIT DROPOUT BOX_AREA BOX_RATIO BOX_TOP BOX_LEFT HOLDOUT"
    " JITTER_ORDER BRIGHTNESS CONTRAST SATURATION LIGHTING",
)
"""What a draw is for, numbered from 1: append only. Two streams never share bits."""

_GOLDEN = np.uint64(0x9E3779B97F4A7C15)


def mix(x: UInt64) -> UInt64:
    """The finaliser of SplitMix64 (Steele, Lea & Flood 2014), a bijection on 64-bit words."""
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))


def draw(seed: int, stream: Stream, epoch: int, indices: npt.ArrayLike) -> UInt64:
    """uint64, shaped as `indices`: uniform bits for each. The coordinates enter one after another, each through the
    bijection, so distinct seeds below 2**32 with distinct epochs never meet the way `seed + epoch` does."""
    with np.errstate(over="ignore"):
        word = np.atleast_1d(np.uint64(seed))
        for coordinate in (int(stream), epoch):
            word = mix(word + _GOLDEN) + np.uint64(coordinate)
        return mix(mix(word + _GOLDEN) ^ (np.asarray(indices).astype(np.uint64) * _GOLDEN))


def below(bits: UInt64, n: int | npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    """Integers 0..n-1 from the upper 32 of `bits`, n below 2**31, one or one each. The bias is at most n / 2**32."""
    return ((bits >> np.uint64(32)) * np.asarray(n, np.uint64) >> np.uint64(32)).astype(np.int64)


def unit(bits: UInt64) -> npt.NDArray[np.float64]:
    """Uniform on [0, 1) in steps of 2**-53."""
    return (bits >> np.uint64(11)).astype(np.float64) * 2.0**-53
