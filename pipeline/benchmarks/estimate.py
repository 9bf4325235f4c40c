"""`wrn-pipe estimate`: what runs will take on this machine, from a short probe of each network."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from pipeline.benchmarks.measuring import process
from pipeline.benchmarks.steps import training_rate
from pipeline.execution.estimate import FORWARD_AND_BACKWARD
from pipeline.models.formula import multiply_adds, parameters
from pipeline.models.names import parse
from pipeline.params import Plan

PROBE_FLOP = 0.7e12
"""A probe's mini-batch is made smaller until its step takes no more: large networks are no less efficient at it."""
BYTES = 4
"""Of a weight: model.safetensors is float32."""


@dataclass(frozen=True)
class Estimate:
    """One run."""

    run: str
    network: str
    images_per_s: float
    hours: float
    """Of training and evaluation together, as if nothing of it were done."""
    megabytes: float
    """10^6 bytes that stay: the weights."""
    done: bool
    """Its evaluation is there."""


def estimate(plan: Plan, run_ids: Sequence[str], say: Callable[[str], None]) -> list[Estimate]:
    """Hours and disk of each run. Runs of one network and batch share a probe: training steps on random images."""
    rates: dict[tuple[str, str, int, int], float] = {}
    result = []
    with process(prepared=True) as child:
        for run_id in run_ids:
            run = plan.run(run_id)
            protocol, dataset, network = plan.protocols[run.protocol], plan.datasets[run.dataset], parse(run.network)
            size = dataset.shape[0] if dataset.shape else network.image_size
            flop = 2 * FORWARD_AND_BACKWARD * multiply_adds(network, size, dataset.classes)
            batch = max(1, min(protocol.batch_size, int(PROBE_FLOP / flop)))
            key = (network.name, protocol.precision, batch, size)
            if key not in rates:
                say(f"{network.name}: {batch} images a step, {protocol.precision}")
                bf16 = protocol.precision == "bf16"
                rates[key] = child.submit(training_rate, network.name, batch, size, bf16, plan.kernels).result()
            # Evaluation is a forward pass, a third of a step.
            images = (dataset.splits["train"] - protocol.holdout) * protocol.epochs + dataset.splits[
                "test"
            ] / FORWARD_AND_BACKWARD
            megabytes = BYTES * parameters(network, dataset.classes) / 1e6
            done = (Path("evaluations") / run_id / "metrics.json").is_file()
            result.append(Estimate(run_id, network.name, rates[key], images / rates[key] / 3600, megabytes, done))
    return result
