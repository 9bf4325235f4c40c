"""Random numbers without a generator, and the order and shares in which an epoch's samples are visited by them.

Every draw is a pure function of its coordinates, so order and augmentation are the same for any number of workers,
after any interruption, and in any language with 64-bit integers.
"""

from dataclasses import dataclass
from enum import IntEnum

import numpy as np
import numpy.typing as npt

UInt64 = npt.NDArray[np.uint64]
Ints = npt.NDArray[np.int64]

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


def below(bits: UInt64, n: int | Ints) -> Ints:
    """Integers 0..n-1 from the upper 32 of `bits`, n below 2**31, one or one each. The bias is at most n / 2**32."""
    return ((bits >> np.uint64(32)) * np.asarray(n, np.uint64) >> np.uint64(32)).astype(np.int64)


def unit(bits: UInt64) -> npt.NDArray[np.float64]:
    """Uniform on [0, 1) in steps of 2**-53."""
    return (bits >> np.uint64(11)).astype(np.float64) * 2.0**-53


def sample_order(seed: int, epoch: int, n: int, holdout: int = 0) -> Ints:
    """int64 [n - holdout]: a permutation of the samples that are not held out, uniform over (seed, epoch). Equal draws
    are ordered by index."""
    samples = np.setdiff1d(np.arange(n), held_out(n, holdout)) if holdout else np.arange(n)  # of another sort's time
    return samples[np.argsort(draw(seed, Stream.ORDER, epoch, samples), kind="stable")]


def held_out(n: int, holdout: int) -> Ints:
    """int64 [holdout], rising: the samples of n that are kept from training, the same for every seed."""
    return np.sort(np.argsort(draw(0, Stream.HOLDOUT, 0, np.arange(n)), kind="stable")[:holdout])


@dataclass(frozen=True)
class Shard:
    """What one of `of` processes, number `number` from 0, takes of each mini-batch: a run of neighbours. The first
    processes take one sample more where a mini-batch does not divide. Every sample is one process's."""

    number: int = 0
    of: int = 1

    def size(self, n: int) -> int:
        """Samples of a mini-batch of n."""
        return n // self.of + (self.number < n % self.of)

    def positions(self, n: int, batch_size: int) -> Ints:
        """int64, rising: places within an order of n samples, mini-batch after mini-batch, the last possibly smaller.
        All mini-batches but the last give `size(batch_size)` of them, and the last no more."""
        if self.of == 1:  # a twentieth of the time in which an epoch of CIFAR is loaded
            return np.arange(n)
        batches = np.split(np.arange(n), range(batch_size, n, batch_size))
        return np.concatenate([np.array_split(batch, self.of)[self.number] for batch in batches])
