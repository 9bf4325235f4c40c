"""One cell per claim: what the paper prints, what our runs say, and the verdict that the two add up to."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Literal

from pipeline.comparison.deviations import Deviation, deviations, is_comparable
from pipeline.comparison.results import Result, counted
from pipeline.comparison.statistics import (
    LOOKS,
    Errors,
    Judgement,
    Sample,
    Spread,
    Verdict,
    judge,
    paper_variance,
    pooled,
    published_spread,
    summarise,
)
from pipeline.errors import UserError
from pipeline.models.names import parse
from pipeline.models.param_count import parameters
from pipeline.params import PARAMS, Plan
from pipeline.publication.claims import Claim, Kind, Metric, canonical
from pipeline.publication.paper import Paper


@dataclass(frozen=True, eq=False)
class Comparison:
    """What is compared with what."""

    paper: Paper
    plan: Plan
    results: Sequence[Result]
    """All finished runs that count, whatever claims they answer."""

    @cached_property
    def spread(self) -> Spread:
        """How far runs of one cell lie apart, by the comparable runs of all the paper's claims and the prior.

        Runs that serve several claims count once, by their top-1 errors.
        """
        cells = {
            (claim.dataset, claim.network, claim.preprocessing, claim.dropout): errors_of(claim, self)
            for claim in self.paper.claims
            if claim.kind == "runnable" and claim.metric == "top1_error"
        }
        return pooled(cells.values(), published_spread(self.paper))


def planned(paper: Paper, plan: Plan, results: Sequence[Result]) -> Comparison:
    """Of those results that count."""
    return Comparison(paper, plan, counted(plan, results))


@dataclass(frozen=True)
class Excluded:
    """A finished run of the claim's network that the verdict leaves out."""

    run: str
    error: float
    """In percent."""
    deviations: tuple[Deviation, ...]
    """Empty when the run was left out because another one has its seed."""
    reason: str


@dataclass(frozen=True)
class Cell:
    """A place of a paper's table. Errors and differences are in percent and points."""

    table: str
    dataset: str
    model: str
    """The network's name as the table spells it."""
    metric: Metric
    kind: Kind | Literal["unpublished"]
    """The claim's kind; unpublished where the paper's table prints a dash."""
    claim: Claim | None
    """None when unpublished."""
    ours: Sample | None = None
    judgement: Judgement | None = None
    """The statistics behind the verdict; None unless there are comparable runs."""
    verdict: Verdict | None = None
    """None for what is not judged: quoted numbers, timings, and numbers that the paper does not print."""
    margin: float | None = None
    count: int | None = None
    """Our exact number of parameters, for a count."""
    time: float | None = None
    """Ours, in the metric's unit, for a timing that was measured here."""
    deviations: tuple[Deviation, ...] = ()
    """Of the runs in `runs`; without repetition."""
    caveats: tuple[int, ...] = ()
    runs: tuple[str, ...] = ()
    """Ids of the runs behind `ours`."""
    origins: tuple[str, ...] = ()
    """Of each of them: this plan, or evidence of which commit."""
    excluded: tuple[Excluded, ...] = ()

    @property
    def difference(self) -> float | None:
        """Our mean minus the printed number, in points; None without the two."""
        if self.ours is None or self.claim is None:
            return None
        return self.ours.mean - self.claim.value

    @property
    def interval(self) -> tuple[float, float] | None:
        """Of the difference, by all runs, at 3 % a side, in points."""
        return self.judgement.now.interval if self.judgement else None


def cell_of(claim: Claim, of: Comparison) -> Cell:
    """Join one claim with the finished runs.

    Raises UserError when the plan has no margin for a dataset that has runs to judge.
    """
    cell = Cell(
        claim.table,
        claim.dataset,
        claim.model,
        claim.metric,
        claim.kind,
        claim,
        caveats=tuple(caveat.number for caveat in of.paper.caveats_of(claim)),
    )
    if claim.kind == "count":
        return _count(cell, claim, of.paper)
    if claim.kind != "runnable":
        return cell
    recipe, weighed = of.paper.protocol_of(claim), _weighed(claim, of)
    if recipe is None or not weighed:
        return replace(cell, verdict=Verdict.NOT_RUN)
    return _with_runs(cell, claim, weighed, of)


def unpublished_cell(table: str, dataset: str, model: str, metric: Metric) -> Cell:
    """A place that the paper's table leaves empty."""
    return Cell(table, dataset, model, metric, "unpublished", None)


def unpublished_cell_with_runs(claim: Claim, model: str, of: Comparison) -> Cell:
    """A dash of the paper's table: our runs of `model` are shown, with their deviations, and not judged.

    `claim` is any claim of the same column, whose protocol the empty place would have had.
    """
    cell = cell_of(replace(claim, model=model), of)
    return replace(cell, kind="unpublished", claim=None, judgement=None, verdict=None, margin=None, caveats=())


def comparable_runs(claim: Claim, of: Comparison) -> tuple[tuple[Result, float], ...]:
    """The runs that count for a claim, one per seed, with their errors in percent; by seed."""
    chosen, _ = _one_per_seed([w for w in _weighed(claim, of) if is_comparable(w.deviations)])
    return tuple((w.result, w.error) for w in chosen)


def errors_of(claim: Claim, of: Comparison) -> Errors:
    """Of the runs that count for a claim."""
    runs = comparable_runs(claim, of)
    settled = _settled([result for result, _ in runs], of)
    return Errors(tuple(error for _, error in runs), of.paper.images(claim.dataset, "test"), settled)


def _settled(ours: Sequence[Result], of: Comparison) -> int:
    """How many of `ours`, the runs that count for a claim, by seed, come before the first planned seed that is missing.

    Where evidence counts, whose plan may be elsewhere, every seed from 1 to its highest is taken for planned: one that
    was left out for what it says would hold up the verdict.
    """
    kinds = {(result.record.dataset, result.network, result.record.protocol_name) for result in ours}
    finished, seeds = {result.run for result in of.results}, {result.record.seed for result in ours}
    pending = [
        run.seed
        for name, run in of.plan.runs.items()
        if (run.dataset, canonical(run.network), run.protocol) in kinds
        and name not in finished
        and run.seed not in seeds
    ]
    highest = max((result.record.seed for result in ours if result.commit), default=0)
    pending += [seed for seed in range(1, highest) if seed not in seeds]
    return sum(result.record.seed < min(pending) for result in ours) if pending else len(ours)


@dataclass(frozen=True)
class _Weighed:
    result: Result
    error: float
    deviations: tuple[Deviation, ...]


def _with_runs(cell: Cell, claim: Claim, weighed: Sequence[_Weighed], of: Comparison) -> Cell:
    comparable, repeated = _one_per_seed([w for w in weighed if is_comparable(w.deviations)])
    others = [w for w in weighed if not is_comparable(w.deviations)]
    if comparable:
        rest = [*_excluded(repeated, "its seed is counted already"), *_excluded(others, "not comparable")]
        margin = _margin(of.plan, claim.dataset)
        judgement = judge(
            [w.error for w in comparable],
            claim.value,
            of.spread,
            variance=paper_variance(claim),
            margin=margin,
            rounding=claim.rounding,
            images=of.paper.images(claim.dataset, "test"),
            settled=_settled([w.result for w in comparable], of),
            higher_is_better=claim.metric == "map",
        )
        return replace(_shown(cell, comparable, rest), verdict=judgement.verdict, judgement=judgement, margin=margin)
    main, repeated = _one_per_seed(_nearest_recipe(others))
    shown = {w.result.run for w in main} | {w.result.run for w in repeated}
    rest = [
        *_excluded(repeated, "its seed is counted already"),
        *_excluded([w for w in others if w.result.run not in shown], "another protocol"),
    ]
    return replace(_shown(cell, main, rest), verdict=Verdict.NOT_COMPARABLE)


def _shown(cell: Cell, chosen: Sequence[_Weighed], rest: Sequence[Excluded]) -> Cell:
    unique = dict.fromkeys(deviation for w in chosen for deviation in w.deviations)
    return replace(
        cell,
        ours=summarise([w.error for w in chosen]),
        deviations=tuple(sorted(unique, key=lambda deviation: not deviation.material)),
        runs=tuple(w.result.run for w in chosen),
        origins=tuple(w.result.origin for w in chosen),
        excluded=tuple(rest),
    )


def _excluded(weighed: Sequence[_Weighed], reason: str) -> list[Excluded]:
    return [Excluded(w.result.run, w.error, w.deviations, reason) for w in weighed]


def _runs_of(network: str, dataset: str, metric: Metric, results: Sequence[Result]) -> list[tuple[Result, float]]:
    """Runs by id, so that the order in which they are given changes nothing."""
    pairs = []
    for result in sorted(results, key=lambda result: result.run):
        error = result.error(metric)
        if error is not None and (result.network, result.record.dataset) == (network, dataset):
            pairs.append((result, error))
    return pairs


def _weighed(claim: Claim, of: Comparison) -> list[_Weighed]:
    """The runs of a claim's network on its dataset, by id, with their deviations; none for one without a protocol."""
    recipe = of.paper.protocol_of(claim)
    if recipe is None:
        return []
    found = []
    for result, error in _runs_of(claim.network, claim.dataset, claim.metric, of.results):
        stored = of.plan.representations.get(f"{claim.dataset}-{result.record.representation}")
        its = deviations(result, claim, recipe, of.paper, of.plan.datasets.get(claim.dataset), stored)
        found.append(_Weighed(result, error, its))
    return found


def _one_per_seed(weighed: Sequence[_Weighed]) -> tuple[list[_Weighed], list[_Weighed]]:
    """Two runs of one seed share data order and initialisation, so only the one nearest the paper's recipe counts; of
    equals evidence, which was counted first."""
    best: dict[int, _Weighed] = {}
    for w in sorted(weighed, key=lambda w: (len(w.deviations), w.result.commit is None, w.result.run)):
        best.setdefault(w.result.record.seed, w)
    chosen = [best[seed] for seed in sorted(best)]
    return chosen, [w for w in weighed if best[w.result.record.seed] is not w]


def _nearest_recipe(weighed: Sequence[_Weighed]) -> list[_Weighed]:
    """Of runs that all deviate materially, those of the one recipe that deviates least; they have a common median."""
    groups: dict[tuple[Deviation, ...], list[_Weighed]] = {}
    for w in weighed:
        groups.setdefault(tuple(d for d in w.deviations if d.material), []).append(w)
    fewest = min(groups, key=lambda material: (len(material), -len(groups[material]), material))
    return groups[fewest]


def _count(cell: Cell, claim: Claim, paper: Paper) -> Cell:
    """A count is the paper's when it rounds to the printed figure; otherwise the network is another one."""
    count = parameters(parse(claim.network), paper.classes(claim.dataset))
    same = f"{count / 1e6:.{claim.decimals}f}" == claim.text
    return replace(cell, count=count, verdict=Verdict.SAME_COUNT if same else Verdict.OTHER_COUNT)


def _margin(plan: Plan, dataset: str) -> float:
    margins = plan.comparison.margins
    if dataset not in margins:
        raise UserError(
            f"{PARAMS}: comparison.margins has no margin for {dataset}",
            f"add {dataset}: and the points of error that still are the same, with the reason",
        )
    return margins[dataset]


def runs_wanted(cell: Cell, paper: Paper) -> int | None:
    """Further comparable runs until the next look; None where none is left, or no training of this tool answers it."""
    if cell.claim is None or paper.protocol_of(cell.claim) is None:
        return None
    if cell.verdict in (Verdict.NOT_RUN, Verdict.NOT_COMPARABLE):
        return LOOKS[0]
    if cell.judgement and cell.judgement.next_look:
        return max(1, cell.judgement.next_look - cell.judgement.now.n)
    return None
