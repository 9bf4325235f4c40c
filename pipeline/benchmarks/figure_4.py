"""`wrn-pipe bench figure-4`: the paper's timing of thin and wide networks, on this machine.

The paper measured forward and backward at batch 32 on a Titan X with cuDNN v5; only ratios carry over.
"""

from collections.abc import Callable
from dataclasses import dataclass

from pipeline.benchmarks import measuring
from pipeline.benchmarks.measuring import Spread, ask, machine, process, spread
from pipeline.benchmarks.train_bench import default, training_rate
from pipeline.params import Kernels, Precision
from pipeline.publication.paper import Paper

BATCH = 32
REFERENCE = "WRN-40-4"
"""The network that the others' times are divided by: the fastest in the paper."""


@dataclass(frozen=True)
class Timing:
    """Of a forward and backward pass. A ratio is to the time of REFERENCE, of the paper or of ours (medians)."""

    network: str
    paper_ms: float
    paper_ratio: float
    ms: Spread
    ratio: float


@dataclass(frozen=True)
class Figure4:
    machine: dict[str, str]
    """As `measuring.machine` says it, and the kernels."""
    precision: Precision
    timings: tuple[Timing, ...]


def bench(paper: Paper, precision: Precision, repeats: int, say: Callable[[str], None]) -> Figure4:
    """Time the networks of Figure 4 in `repeats` rounds, one after the other."""
    printed = {claim.network: claim.value for claim in paper.claims if claim.metric == "batch32_ms"}
    ms: dict[str, list[float]] = {network: [] for network in printed}
    # The fastest but torch.compile: to compile a thousand layers takes too long.
    kernels: Kernels = "fused" if measuring.device().type == "cpu" else "torch"
    way = default(precision == "bf16", kernels=kernels)
    with process(prepared=True) as child:
        for repeat in range(repeats):
            say(f"round {repeat + 1} of {repeats}")
            for network, values in ms.items():
                rate = ask(child, training_rate, network, BATCH, 32, way, update=False)
                values.append(1000 * BATCH / rate)
        here = ask(child, machine) | {"kernels": kernels}
    ours = {network: spread(values) for network, values in ms.items()}
    timings = tuple(
        Timing(name, value, value / printed[REFERENCE], ours[name], ours[name].median / ours[REFERENCE].median)
        for name, value in printed.items()
    )
    return Figure4(here, precision, timings)
