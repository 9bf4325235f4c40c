"""The order in which a training epoch visits its samples."""

import numpy as np
import numpy.typing as npt

from pipeline.loading.counter_hash import Stream, draw


def sample_order(seed: int, epoch: int, n: int) -> npt.NDArray[np.int64]:
    """int64 [n]: a permutation of 0..n-1, uniform over (seed, epoch), equal draws ordered by index."""
    return np.argsort(draw(seed, Stream.ORDER, epoch, np.arange(n)), kind="stable")
