"""The order in which a training epoch visits its samples, and which samples it never sees."""

import numpy as np
import numpy.typing as npt

from pipeline.loading.counter_hash import Stream, draw


def sample_order(seed: int, epoch: int, n: int, holdout: int = 0) -> npt.NDArray[np.int64]:
    """int64 [n - holdout]: a permutation of the samples that are not held out, uniform over (seed, epoch).

    Equal draws are ordered by index.
    """
    samples = np.setdiff1d(np.arange(n), held_out(n, holdout)) if holdout else np.arange(n)
    return samples[np.argsort(draw(seed, Stream.ORDER, epoch, samples), kind="stable")]


def held_out(n: int, holdout: int) -> npt.NDArray[np.int64]:
    """int64 [holdout], rising: the samples of n that are kept from training, the same for every seed."""
    return np.sort(np.argsort(draw(0, Stream.HOLDOUT, 0, np.arange(n)), kind="stable")[:holdout])
