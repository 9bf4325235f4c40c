"""The training that `wrn-pipe bench neighbours` measures, in a process of its own: network, kernels, and where its
threads run."""

import os
import sys
from contextlib import nullcontext
from typing import Literal, cast, get_args

from pipeline.params import Kernels
from pipeline.runner.waiting import bind_threads, on_own_core

BATCH, MEASURE_S = 128, 2.0
"""Steps are repeated for so many seconds in each round."""
WARM_S = 4.0
"""And for so many before: a process that has slept for a while may have lost its pages to others, and one that makes
way takes a moment to notice who is there."""
Threads = Literal["free", "bound", "yielding"]
"""Where threads run: anywhere, each on its own core, or as a training's, on their own cores or making way."""


def main(network: str, kernels: Kernels, threads: Threads) -> None:
    """Asked once by a line of stdin, how many threads it has and what was done to them; then, each time, the mean
    seconds of a step."""
    os.environ.setdefault("THP_MEM_ALLOC_ENABLE", "1")
    bound = threads != "free" and bind_threads(kernels)
    import torch

    from pipeline.benchmarks.measuring import seconds_of
    from pipeline.benchmarks.steps import on_random_images
    from pipeline.training.device import prepare

    prepare(torch.device("cpu"))
    step = on_random_images(network, BATCH, 32, True, kernels, update=True, yields=threads == "yielding")
    for number, _ in enumerate(sys.stdin):
        if number:
            with nullcontext() if threads == "yielding" else on_own_core():
                seconds_of(step, WARM_S)
                print(seconds_of(step, MEASURE_S), flush=True)
        else:
            told = {"free": "", "bound": "bound", "yielding": "bound or making way"}[threads] if bound else ""
            print(torch.get_num_threads(), told, flush=True)


if __name__ == "__main__":
    network, kernels, threads = sys.argv[1:]
    assert threads in get_args(Threads)
    main(network, cast(Kernels, kernels), cast("Threads", threads))
