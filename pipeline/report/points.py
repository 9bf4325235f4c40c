"""Error against size and training compute: every published error that has a network, and our runs beside them."""

from collections.abc import Sequence
from dataclasses import dataclass

from pipeline.comparison.cells import Comparison, comparable_runs
from pipeline.comparison.statistics import summarise
from pipeline.comparison.training_cost import training_multiply_adds
from pipeline.errors import UserError
from pipeline.models.names import parse
from pipeline.models.param_count import parameters
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
    points = []
    for claim in paper.claims:
        if (claim.dataset, claim.metric) != (dataset, "top1_error") or (size := _size(claim, paper)) is None:
            continue
        recipe, work = paper.protocol_of(claim), None
        if recipe is not None:
            work = training_multiply_adds(claim.network, paper.images(dataset, "train"), recipe.protocol.epochs)
        source = paper.tables[claim.table].partition(":")[0] + (", quoted" if claim.kind == "quoted" else "")
        points.append(Point(claim.model, source, claim.value, size, work, ours=False, comparable=True))
    return points


def our_points(dataset: str, of: Comparison, finished: Sequence[Finished]) -> list[Point]:
    """Our runs on `dataset`: a point for the seeds of one network by one protocol. Held-out errors are left out."""
    claims = [claim for claim in of.paper.claims if claim.kind == "runnable"]
    counted = {result.run for claim in claims for result, _ in comparable_runs(claim, of)}
    groups: dict[tuple[str, str, bool], list[Finished]] = {}
    for run in finished:
        if (run.result.record.dataset, run.result.metrics.split) == (dataset, "test"):
            key = (run.result.network, run.protocol, run.result.run in counted)
            groups.setdefault(key, []).append(run)
    points = []
    for (network, protocol, comparable), runs in groups.items():
        record = runs[0].result.record
        known = of.plan.datasets.get(dataset)
        images = known.splits["train"] if known else of.paper.images(dataset, "train")
        work = training_multiply_adds(network, images, record.epochs)
        source = f"ours, {protocol}, n={len(runs)}" + ("" if comparable else ", not comparable")
        error = summarise([run.result.top1_error for run in runs]).mean
        points.append(Point(network, source, error, record.parameters, work, ours=True, comparable=comparable))
    return points


def _size(claim: Claim, paper: Paper) -> int | None:
    try:
        network = parse(claim.network)
    except UserError:  # another system's network, of which the paper may print the size
        printed = [c for c in paper.claims if (c.model, c.metric) == (claim.model, "params_millions")]
        return round(printed[0].value * 1e6) if printed else None
    return parameters(network, paper.classes(claim.dataset))
