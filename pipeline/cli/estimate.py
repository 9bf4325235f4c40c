"""wrn-pipe estimate: what the plan, or a table of the paper, takes on this machine, from a short probe."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from math import prod
from typing import TYPE_CHECKING, Annotated, Any

from typer import Option

from pipeline.cli.options import Json, OfDataset, OptionalTables, Row
from pipeline.cli.output import print_json, row_table
from pipeline.errors import UserError
from pipeline.progress import say
from pipeline.publication.wide_resnet import PAPER

if TYPE_CHECKING:
    from pipeline.params import Plan, Run

PROBE_FLOP = 0.7e12
"""On a CPU a probe's mini-batch is made smaller until its step takes no more: large networks are no less efficient at
it. A GPU is, with few images, and is quick with many: there it is the protocol's."""


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


def estimate(
    paper_table: OptionalTables = None,
    row: Row = None,
    dataset: OfDataset = None,
    seeds: Annotated[int, Option(min=1, help="Runs of each network of the table.")] = 1,
    as_json: Json = False,
) -> None:
    """Hours and disk of each run, of each of the paper's tables and of all, from a probe of seconds for each network.

    Of what params.yaml has, or of a table or row, planned or not, on this machine; what is done, and the rest.
    Nothing is written. `wrn-pipe plan` estimates without a probe.
    """
    from rich.console import Console

    from pipeline.benchmarks.measuring import say_if_busy
    from pipeline.params import PARAMS
    from pipeline.publication.claims import canonical
    from pipeline.runner.params_file import load
    from pipeline.runner.plan_edit import extend, groups_of

    plan = load()
    runs = plan.runs
    if paper_table or row or dataset:
        table = paper_table or "all"
        groups, _ = groups_of(PAPER, PAPER.chosen(PAPER.table_names(table), dataset, row), plan, None)
        if not groups:
            raise UserError(f"table {table} has nothing to train", f"choose {PAPER.trainable_tables}")
        plan = extend(PAPER, PARAMS.read_bytes().decode(), groups, [], seeds).plan
        its = {(group.dataset, group.network, group.protocol) for group in groups}
        runs = {name: run for name, run in plan.runs.items() if run.seed <= seeds}
        runs = {name: run for name, run in runs.items() if (run.dataset, canonical(run.network), run.protocol) in its}
    say_if_busy()
    estimates = estimates_of(plan, runs)
    parts, space = sums(estimates), disk(plan, estimates)
    if as_json:
        print_json({"runs": estimates, "sums": parts, "disk_megabytes": space})
        return
    columns = ("run", "images_per_s", "hours", "megabytes", "done")
    Console(highlight=False).print(
        row_table("On this machine, by a short probe", estimates, *columns),
        *(f"{each.run}: {caveat}" for each in estimates for caveat in each.caveats),
        row_table("Tables of the paper; a run in two of them counts in both", parts),
        f"Disk beside these weights: {space['raw']:,.0f} MB of images, {space['beton']:,.0f} MB of .beton files, "
        f"{space['dvc_copy']:,.0f} MB of DVC's copy of all (none where the disk can link files), and while a run "
        f"trains up to {space['checkpoints']:,.0f} MB of checkpoints.",
        sep="\n",
    )


def estimates_of(plan: "Plan", run_ids: Iterable[str]) -> list[Estimate]:
    """Hours and disk of each run. Runs of one network and batch share a probe: training steps on random images.

    Raises WrnPipeError where a network cannot be compiled, or not be trained in the GPU's memory.
    """
    from pipeline.artifacts import EVALUATIONS, METRICS
    from pipeline.benchmarks import measuring
    from pipeline.benchmarks.train_bench import Way, default, training_rate
    from pipeline.comparison.training_cost import FORWARD_AND_BACKWARD
    from pipeline.models.names import multiply_adds, parameters, parse
    from pipeline.runner.interruptions import explain_no_memory
    from pipeline.training.device import computed_in

    rates: dict[tuple[str, int, int, Way, bool], float] = {}
    result = []
    with measuring.process(prepared=True, setting=plan.device) as child:
        device = measuring.ask(child, measuring.device)
        for run_id in run_ids:
            run = plan.run(run_id)
            protocol, dataset, network = plan.protocols[run.protocol], plan.datasets[run.dataset], parse(run.network)
            batch, size = protocol.batch_size, dataset.shape[0] if dataset.shape else network.image_size
            if device.type == "cpu":
                flop = 2 * FORWARD_AND_BACKWARD * multiply_adds(network, size, dataset.classes)
                batch = max(1, min(batch, int(PROBE_FLOP / flop)))
            way = default(computed_in(protocol.precision, device) == "bf16", kernels=plan.kernels)
            probe = (network.name, batch, size, way, protocol.batch_norm == "synchronised")
            if probe not in rates:
                say(f"{network.name}: {batch} images a step, {protocol.precision}")
                with explain_no_memory(run_id, lambda: "in a probe"):
                    rates[probe] = measuring.ask(child, training_rate, *probe[:4], synchronised=probe[4])
            # Evaluation is a forward pass, a third of a step; so is each look at the test split while training.
            looks = 1 + (protocol.epochs // protocol.test_every if protocol.test_every else 0)
            trained = (dataset.splits["train"] - protocol.holdout) * protocol.epochs
            hours = (trained + looks * dataset.splits["test"] / FORWARD_AND_BACKWARD) / rates[probe] / 3600
            megabytes, done = 4e-6 * parameters(network, dataset.classes), (EVALUATIONS / run_id / METRICS).is_file()
            caveats = []
            if protocol.processes > 1:
                caveats.append(f"{protocol.processes} processes train it; the hours are of one that trains it alone")
            if dataset.shape is None:
                caveats.append("it reads JPEGs; to decode them is not in the hours, and takes longer with few cores")
            about = run_id, network.name, tables_of(run), rates[probe]
            result.append(Estimate(*about, hours, megabytes, done, tuple(caveats)))
    return result


def tables_of(run: "Run") -> tuple[str, ...]:
    """The paper's tables that have the run's network on its dataset, by its protocol if that is one of the paper's."""
    from pipeline.publication.claims import canonical

    its, other = (run.dataset, canonical(run.network)), run.protocol not in PAPER.protocols
    claims = [claim for claim in PAPER.claims if (claim.dataset, claim.network) == its]
    recipes = {claim: recipe.name for claim in claims if (recipe := PAPER.protocol_of(claim))}
    return tuple(dict.fromkeys(claim.table for claim, name in recipes.items() if other or name == run.protocol))


def sums(estimates: Sequence[Estimate]) -> list[dict[str, Any]]:
    """For each of the paper's tables that has one of the runs, then for all runs; one of two tables counts in both."""
    found = []
    for table in (*PAPER.tables, "all"):
        if part := [each for each in estimates if table in (*each.tables, "all")]:
            left = [each.hours for each in part if not each.done]
            told: dict[str, Any] = {"table": table, "runs": len(part), "done": len(part) - len(left)}
            told |= {"hours": sum(each.hours for each in part), "hours_left": sum(left)}
            found.append({**told, "megabytes": sum(each.megabytes for each in part)})
    return found


def disk(plan: "Plan", estimates: Sequence[Estimate]) -> dict[str, float]:
    """10^6 bytes beside the weights: the images as they are fetched, the .beton files (ImageNet's taken for as large as
    its JPEGs), DVC's copy of these and of the weights, and checkpoints while the largest run trains."""
    runs = [plan.run(each.run) for each in estimates]
    raw = sum(plan.datasets[name].size_on_disk for name in {run.dataset for run in runs}) / 1e6
    beton = 0.0
    for name, kind in {(run.dataset, run.representation) for run in runs}:
        dataset = plan.datasets[name]
        white = 4 * sum(dataset.splits.values()) * prod(dataset.shape or ())  # float32
        beton += (white if kind == "zca" else dataset.size_on_disk) / 1e6
    weights = [each.megabytes for each in estimates]
    # Two checkpoints are kept while one is written, each with weights and momentum.
    kept = {"dvc_copy": raw + beton + sum(weights), "checkpoints": 3 * 2 * max(weights, default=0)}
    return {"raw": raw, "beton": beton, **kept}
