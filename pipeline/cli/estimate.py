"""wrn-pipe estimate: what the plan, or a table of the paper, takes on this machine, from a short probe."""

from collections.abc import Sequence
from dataclasses import dataclass
from math import prod
from typing import TYPE_CHECKING, Annotated

from typer import Option

from pipeline.cli.options import TABLES, Json, any_table
from pipeline.cli.output import print_json, row_table
from pipeline.errors import UserError, WrnPipeError
from pipeline.progress import say
from pipeline.publication.wide_resnet import PAPER

if TYPE_CHECKING:
    import torch

    from pipeline.dataset_config import Dataset
    from pipeline.models.names import Network
    from pipeline.params import Plan, Protocol, Run

PROBE_FLOP = 0.7e12
"""On a CPU a probe's mini-batch is made smaller until its step takes no more: large networks are no less efficient at
it. A GPU is, with few images, and is quick with many: there it is the protocol's."""
BYTES = 4
"""Of a weight in model.safetensors, and of a pixel in .beton files of whitened images: float32."""
STATES = 3
"""Of a training at once: two are kept, and one is being written. Each has weights and momentum."""


@dataclass(frozen=True)
class Estimate:
    """One run."""

    run: str
    network: str
    tables: tuple[str, ...]
    """Of the paper, in which a claim is this run's."""
    images_per_s: float
    hours: float
    """Of training and evaluation together, as if nothing of it were done."""
    megabytes: float
    """10^6 bytes that stay: the weights."""
    done: bool
    caveats: tuple[str, ...]
    """What of its training is not in the hours: they are of steps of one process, on images that lie in memory."""


@dataclass(frozen=True)
class Sum:
    """Of some runs. One that stands in two tables counts in both."""

    table: str
    """Of the paper; all: every run, once."""
    runs: int
    done: int
    hours: float
    hours_left: float
    megabytes: float


def estimate(
    paper_table: Annotated[str | None, Option(metavar="TABLE", help=TABLES, autocompletion=any_table)] = None,
    seeds: Annotated[int, Option(min=1, help="Runs of each network of the table.")] = 1,
    as_json: Json = False,
) -> None:
    """Hours and disk of each run, of each of the paper's tables and of all, from a probe of seconds for each network.

    Of what params.yaml has, or of a table, planned or not, on this machine; what is done, and the rest. Nothing is
    written. `wrn-pipe plan` estimates without a probe.
    """
    from rich.console import Console

    from pipeline.benchmarks.measuring import say_if_busy
    from pipeline.params import PARAMS
    from pipeline.publication.claims import canonical
    from pipeline.runner.params_file import load
    from pipeline.runner.plan_edit import extend, groups_of

    plan = load()
    run_ids = list(plan.runs)
    if paper_table is not None:
        groups, _ = groups_of(PAPER, PAPER.chosen(PAPER.table_names(paper_table), None, None), plan, None)
        if not groups:
            raise UserError(f"table {paper_table} has nothing to train", f"choose {PAPER.trainable_tables}")
        plan = extend(PAPER, PARAMS.read_bytes().decode(), groups, [], seeds).plan
        names = {(group.dataset, group.network, group.protocol) for group in groups}
        run_ids = [
            run_id
            for run_id, run in plan.runs.items()
            if (run.dataset, canonical(run.network), run.protocol) in names and run.seed <= seeds
        ]
    say_if_busy()
    estimates = estimates_of(plan, run_ids)
    parts, space = sums(estimates), disk(plan, estimates)
    if as_json:
        print_json({"runs": estimates, "sums": parts, "disk_megabytes": space})
        return
    console = Console(highlight=False)
    columns = ("run", "images_per_s", "hours", "megabytes", "done")
    console.print(row_table("On this machine, by a short probe", estimates, *columns))
    for each in estimates:
        for caveat in each.caveats:
            console.print(f"{each.run}: {caveat}")
    console.print(
        row_table("Tables of the paper; a run in two of them counts in both", parts),
        f"Disk beside these weights: {space['raw']:,.0f} MB of images, {space['beton']:,.0f} MB of .beton files, "
        f"{space['dvc_copy']:,.0f} MB of DVC's copy of all (none where the disk can link files), and while a run "
        f"trains up to {space['checkpoints']:,.0f} MB of checkpoints.",
        sep="\n",
    )


def estimates_of(plan: "Plan", run_ids: Sequence[str]) -> list[Estimate]:
    """Hours and disk of each run. Runs of one network and batch share a probe: training steps on random images.

    Raises WrnPipeError where a network cannot be compiled, or not be trained in the GPU's memory.
    """
    import torch

    from pipeline.artifacts import EVALUATIONS, METRICS
    from pipeline.benchmarks import measuring
    from pipeline.benchmarks.train_bench import Way, default, training_rate
    from pipeline.comparison.training_cost import FORWARD_AND_BACKWARD
    from pipeline.models.names import parameters, parse
    from pipeline.training.device import computed_in

    rates: dict[tuple[str, int, int, Way, bool], float] = {}
    result = []
    with measuring.process(prepared=True, setting=plan.device) as child:
        device = measuring.ask(child, measuring.device)
        for run_id in run_ids:
            run = plan.run(run_id)
            protocol, dataset, network = plan.protocols[run.protocol], plan.datasets[run.dataset], parse(run.network)
            batch, size = probed(network, dataset, protocol, device)
            way = default(computed_in(protocol.precision, device) == "bf16", kernels=plan.kernels)
            probe = (network.name, batch, size, way, protocol.batch_norm == "synchronised")
            if probe not in rates:
                say(f"{network.name}: {batch} images a step, {protocol.precision}")
                try:
                    rates[probe] = measuring.ask(child, training_rate, *probe[:4], synchronised=probe[4])
                except torch.OutOfMemoryError as error:
                    raise WrnPipeError(
                        f"{network.name}: {batch} images in {protocol.precision} do not fit the memory of {device}",
                        "free it, or lower batch_size, or set precision: bf16, or estimate without these runs",
                    ) from error
            # Evaluation is a forward pass, a third of a step; so is each look at the test split while training.
            looks = 1 + (protocol.epochs // protocol.test_every if protocol.test_every else 0)
            trained = (dataset.splits["train"] - protocol.holdout) * protocol.epochs
            images = trained + looks * dataset.splits["test"] / FORWARD_AND_BACKWARD
            caveats = []
            if protocol.processes > 1:
                caveats.append(f"{protocol.processes} processes train it; the hours are of one that trains it alone")
            if run.representation == "jpeg":
                caveats.append("it reads JPEGs; to decode them is not in the hours, and takes longer with few cores")
            result.append(
                Estimate(
                    run_id,
                    network.name,
                    tables_of(run),
                    rates[probe],
                    hours=images / rates[probe] / 3600,
                    megabytes=BYTES * parameters(network, dataset.classes) / 1e6,
                    done=(EVALUATIONS / run_id / METRICS).is_file(),
                    caveats=tuple(caveats),
                )
            )
    return result


def probed(network: "Network", dataset: "Dataset", protocol: "Protocol", device: "torch.device") -> tuple[int, int]:
    """The images of a probe's mini-batch, and their height and width."""
    from pipeline.comparison.training_cost import FORWARD_AND_BACKWARD
    from pipeline.models.names import multiply_adds

    size = dataset.shape[0] if dataset.shape else network.image_size
    if device.type == "cuda":
        return protocol.batch_size, size
    flop = 2 * FORWARD_AND_BACKWARD * multiply_adds(network, size, dataset.classes)
    return max(1, min(protocol.batch_size, int(PROBE_FLOP / flop))), size


def tables_of(run: "Run") -> tuple[str, ...]:
    """The paper's tables that have the run's network on its dataset, by its protocol if that is one of the paper's."""
    from pipeline.publication.claims import canonical

    found = [
        claim.table
        for claim in PAPER.claims
        if (protocol := PAPER.protocol_of(claim))
        and (claim.dataset, claim.network) == (run.dataset, canonical(run.network))
        and (run.protocol not in PAPER.protocols or protocol.name == run.protocol)
    ]
    return tuple(dict.fromkeys(found))


def sums(estimates: Sequence[Estimate]) -> list[Sum]:
    """For each of the paper's tables that has one of the runs, then for all runs."""
    found = []
    for table in (*PAPER.tables, "all"):
        if part := [each for each in estimates if table in (*each.tables, "all")]:
            left = [each.hours for each in part if not each.done]
            hours, megabytes = sum(each.hours for each in part), sum(each.megabytes for each in part)
            found.append(Sum(table, len(part), len(part) - len(left), hours, sum(left), megabytes))
    return found


def disk(plan: "Plan", estimates: Sequence[Estimate]) -> dict[str, float]:
    """10^6 bytes beside the weights, as if nothing of it were there.

    raw: the datasets' arrays, of ImageNet its JPEGs. beton: the .beton files, ImageNet's taken for as large as its
    JPEGs. dvc_copy: DVC's copy of these and of the weights, where the disk cannot link files. checkpoints: while one
    run trains at a time, the largest.
    """
    stored = {(plan.run(each.run).dataset, plan.run(each.run).representation) for each in estimates}
    raw = sum(plan.datasets[name].size_on_disk for name in {name for name, _ in stored}) / 1e6
    beton = 0.0
    for dataset, kind in ((plan.datasets[name], kind) for name, kind in stored):
        if kind == "zca":
            beton += BYTES * sum(dataset.splits.values()) * prod(dataset.image_shape) / 1e6
        else:
            beton += dataset.size_on_disk / 1e6
    weights = [each.megabytes for each in estimates]
    checkpoints = 2 * STATES * max(weights, default=0)
    return {"raw": raw, "beton": beton, "dvc_copy": raw + beton + sum(weights), "checkpoints": checkpoints}
