"""The training that `wrn-pipe bench neighbours` measures, in a process of its own: network, kernels and, where its
threads are to be bound, a third word."""

import os
import sys
from typing import TYPE_CHECKING, cast

from pipeline.execution.waiting import bind_threads, on_own_core

if TYPE_CHECKING:  # torch comes with it, which is to be imported by bind_threads
    from pipeline.models.kernels import Kernels

BATCH, MEASURE_S = 128, 2.0
"""Steps are repeated for so many seconds in each round."""
WARM_S = 1.0
"""And for so many before: a process that has slept for a while may have lost its pages to others."""


def main(network: str, kernels: "Kernels", bound: bool) -> None:
    """Asked once by a line of stdin, how many threads it has and "bound" if they are; then, each time, the mean
    seconds of a step."""
    os.environ.setdefault("THP_MEM_ALLOC_ENABLE", "1")
    bound = bound and bind_threads(kernels)
    import torch

    from pipeline.benchmarks.measuring import seconds_of
    from pipeline.benchmarks.steps import on_random_images
    from pipeline.training.device import prepare

    prepare(torch.device("cpu"))
    step = on_random_images(network, BATCH, 32, True, kernels, update=True)
    for number, _ in enumerate(sys.stdin):
        if number:
            with on_own_core():
                seconds_of(step, WARM_S)
                print(seconds_of(step, MEASURE_S), flush=True)
        else:
            print(torch.get_num_threads(), "bound" if bound else "", flush=True)


if __name__ == "__main__":
    network, kernels, *bound = sys.argv[1:]
    main(network, cast("Kernels", kernels), bool(bound))
