"""`wrn-pipe bench figure-4`: the paper's timing of thin and wide networks, on this machine.

The paper measured forward and backward at batch 32 on a Titan X with cuDNN v5; only ratios carry over.
"""

from collections.abc import Callable
from dataclasses import dataclass

from pipeline.benchmarks import measuring
from pipeline.benchmarks.child import process
from pipeline.benchmarks.machine import machine
from pipeline.benchmarks.measuring import Spread, ask, spread
from pipeline.benchmarks.steps import forward_and_backward, uncompiled
from pipeline.kernels.build_kernels import built_with
from pipeline.params import Precision
from pipeline.publication.claims import load_claims

BATCH = 32
REFERENCE = "WRN-40-4"
"""The network that the others' times are divided by: the fastest in the paper."""


@dataclass(frozen=True)
class Timing:
    network: str
    paper_ms: float
    paper_ratio: float
    """The paper's time over its time for REFERENCE."""
    ms: Spread
    ratio: float
    """Our median over ours for REFERENCE."""


@dataclass(frozen=True)
class Figure4:
    """All that was measured, and on what."""

    machine: dict[str, str]
    """As pipeline/benchmarks/machine.py says it, and the kernels."""
    precision: Precision
    timings: tuple[Timing, ...]


def bench(precision: Precision, repeats: int, say: Callable[[str], None]) -> Figure4:
    """Time the networks of Figure 4 in `repeats` rounds, one after the other."""
    paper = {claim.network: claim.value for claim in load_claims() if claim.metric == "batch32_ms"}
    seconds: dict[str, list[float]] = {network: [] for network in paper}
    with process(prepared=True) as child:
        for repeat in range(repeats):
            say(f"round {repeat + 1} of {repeats}")
            for network, values in seconds.items():
                values.append(ask(child, forward_and_backward, network, BATCH, precision == "bf16"))
        here = ask(child, _machine)
    ours = {network: spread([1000 * value for value in values]) for network, values in seconds.items()}
    timings = tuple(
        Timing(
            network,
            paper[network],
            paper[network] / paper[REFERENCE],
            ours[network],
            ours[network].median / ours[REFERENCE].median,
        )
        for network in paper
    )
    return Figure4(here, precision, timings)


def _machine() -> dict[str, str]:
    """In the child that has measured."""
    kernels, device = uncompiled(), measuring.device()
    return machine(device) | {"kernels": f"{kernels}, {built_with()}" if kernels == "fused" else kernels}
