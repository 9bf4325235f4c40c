"""What the figures and the page show: finished runs with their curves, and every published error beside our own."""

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from pipeline.artifacts import DIGESTS, HISTORY, MODELS, Digests, EpochRecord, read_history
from pipeline.comparison.cells import Comparison, comparable_runs
from pipeline.comparison.results import Result
from pipeline.comparison.statistics import summarise
from pipeline.comparison.training_cost import training_multiply_adds
from pipeline.errors import UserError
from pipeline.models.names import parameters, parse
from pipeline.publication.claims import Claim
from pipeline.publication.paper import Paper


@dataclass(frozen=True)
class Finished:
    """A run with all that git has of it, so that a clone without weights and predictions writes the same page."""

    result: Result
    history: list[EpochRecord]
    digests: dict[str, str]
    """File, relative to the root -> sha256, as digests.json has it."""

    @property
    def error(self) -> str:
        """With what it is one of: the test split, or training images that were held out."""
        name = "test error" if self.result.metrics.split == "test" else "held-out error"
        return f"{name} {self.result.top1_error:.2f} %"


def load_finished(root: Path, results: Iterable[Result]) -> list[Finished]:
    """The runs of `results`, in their order. Raises UserError that names a file that is missing or broken."""
    found = []
    for result in results:
        digests = Digests.read(root / result.folder / DIGESTS)
        trained = MODELS / result.run if result.commit is None else result.folder
        history = read_history(root / trained / HISTORY, f"wrn-pipe repro {result.run}")
        found.append(Finished(result, history, digests.files))
    return found


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
    group: str
    """Points that look alike: the paper's by depth, ours by whether they may be set beside some number of it."""


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
        depth = re.match(r"WRN-\d+", claim.model)
        group = f"paper, {depth[0] if depth else 'others'}"
        points.append(Point(claim.model, source, claim.value, size, work, group))
    return points


def our_points(dataset: str, of: Comparison, finished: Sequence[Finished]) -> list[Point]:
    """Our runs on `dataset`: a point for the seeds of one network by one protocol. Held-out errors are left out."""
    claims = [claim for claim in of.paper.claims if claim.kind == "runnable"]
    counted = {each.run for claim in claims for each in comparable_runs(claim, of)}
    alike: dict[tuple[str, str, str], list[Result]] = {}
    for result in (run.result for run in finished):
        if (result.record.dataset, result.metrics.split) == (dataset, "test"):
            group = "ours" if result.run in counted else "ours, not comparable"
            alike.setdefault((result.network, result.record.protocol_name, group), []).append(result)
    known = of.plan.datasets.get(dataset)
    images = known.splits["train"] if known else of.paper.images(dataset, "train")
    points = []
    for (network, protocol, group), results in alike.items():
        record = results[0].record
        work = training_multiply_adds(network, images, record.epochs)
        source = group.replace("ours", f"ours, {protocol}, n={len(results)}")
        error = summarise([result.top1_error for result in results]).mean
        points.append(Point(network, source, error, record.parameters, work, group))
    return points


def _size(claim: Claim, paper: Paper) -> int | None:
    try:
        network = parse(claim.network)
    except UserError:  # another system's network, of which the paper may print the size
        printed = [c for c in paper.claims if (c.model, c.metric) == (claim.model, "params_millions")]
        return round(printed[0].value * 1e6) if printed else None
    return parameters(network, paper.classes(claim.dataset))
