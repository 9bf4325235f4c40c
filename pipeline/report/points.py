"""Error against size and training compute: every published error that has a network, and our runs beside them."""

from collections.abc import Sequence
from dataclasses import dataclass

from pipeline.comparison.cells import Comparison, comparable_runs
from pipeline.comparison.statistics import summarise
from pipeline.comparison.training_cost import training_multiply_adds
from pipeline.errors import UserError
from pipeline.models.names import parse
from pipeline.models.param_count import parameters
from pipeline.params import Plan
from pipeline.publication.claims import Claim
from pipeline.publication.paper import Paper
from pipeline.report.finished_runs import Finished


@dataclass(frozen=True)
class Point:
    """One error of one network on one dataset."""

    network: str
    source: str
    """The paper's table, or the protocol and the number of our runs."""
    error: float
    """Top-1, percent; the mean over seeds of ours."""
    parameters: int
    """Exact, by formula; as printed where the network can not be built here."""
    multiply_adds: int | None
    """Of its whole training, forward and backward; None where the length of training is not known here."""
    ours: bool
    comparable: bool
    """Whether our runs may be set beside some number of the paper; True for the paper's own."""


def published_points(dataset: str, paper: Paper) -> list[Point]:
    """The paper's top-1 errors on `dataset` in its order, without networks of unknown size."""
    claims = [claim for claim in paper.claims if (claim.dataset, claim.metric) == (dataset, "top1_error")]
    return [point for claim in claims if (point := _published(claim, paper)) is not None]


def our_points(dataset: str, of: Comparison, finished: Sequence[Finished]) -> list[Point]:
    """Our runs on `dataset`: a point for the seeds of one network by one protocol. Held-out errors are left out."""
    claims = [claim for claim in of.paper.claims if claim.kind == "runnable"]
    comparable = {result.run for claim in claims for result, _ in comparable_runs(claim, of)}
    groups: dict[tuple[str, str, bool], list[Finished]] = {}
    for run in finished:
        if (run.result.record.dataset, run.result.metrics.split) == (dataset, "test"):
            key = (run.result.network, run.protocol, run.result.run in comparable)
            groups.setdefault(key, []).append(run)
    return [_ours(network, of.plan, runs, fits) for (network, _, fits), runs in groups.items()]


def _published(claim: Claim, paper: Paper) -> Point | None:
    size = _size(claim, paper)
    if size is None:
        return None
    recipe, work = paper.protocol_of(claim), None
    if recipe is not None:
        images = paper.images(claim.dataset, "train")
        work = training_multiply_adds(claim.network, images, recipe.protocol.epochs)
    table = paper.tables[claim.table].partition(":")[0]
    source = f"{table}, quoted" if claim.kind == "quoted" else table
    return Point(claim.model, source, claim.value, size, work, ours=False, comparable=True)


def _size(claim: Claim, paper: Paper) -> int | None:
    try:
        network = parse(claim.network)
    except UserError:  # another system's network, of which the paper may print the size
        printed = [c for c in paper.claims if (c.model, c.metric) == (claim.model, "params_millions")]
        return round(printed[0].value * 1e6) if printed else None
    return parameters(network, paper.classes(claim.dataset))


def _ours(network: str, plan: Plan, runs: Sequence[Finished], comparable: bool) -> Point:
    record = runs[0].result.record
    images = plan.datasets[record.dataset].splits["train"]
    source = f"ours, {runs[0].protocol}, n={len(runs)}" + ("" if comparable else ", not comparable")
    return Point(
        network,
        source,
        summarise([run.result.top1_error for run in runs]).mean,
        record.parameters,
        training_multiply_adds(network, images, record.epochs),
        ours=True,
        comparable=comparable,
    )
