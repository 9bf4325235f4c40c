"""The order in which a training epoch visits its samples, and which samples it never sees."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from pipeline.data.counter_rng import Stream, draw


def sample_order(seed: int, epoch: int, n: int, holdout: int = 0) -> npt.NDArray[np.int64]:
    """int64 [n - holdout]: a permutation of the samples that are not held out, uniform over (seed, epoch). Equal draws
    are ordered by index."""
    samples = np.setdiff1d(np.arange(n), held_out(n, holdout)) if holdout else np.arange(n)
    return samples[np.argsort(draw(seed, Stream.ORDER, epoch, samples), kind="stable")]


def held_out(n: int, holdout: int) -> npt.NDArray[np.int64]:
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

    def positions(self, n: int, batch_size: int) -> npt.NDArray[np.int64]:
        """int64, rising: places within an order of n samples, mini-batch after mini-batch, the last possibly smaller.
        All mini-batches but the last give `size(batch_size)` of them, and the last no more."""
        batches = np.split(np.arange(n), range(batch_size, n, batch_size))
        return np.concatenate([np.array_split(batch, self.of)[self.number] for batch in batches])


WHOLE = Shard()
