"""One cell per claim: what the paper prints, what our runs say, and the verdict that the two add up to."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Literal

from pipeline.comparison.deviations import Deviation, deviations
from pipeline.comparison.results import Result, counted
from pipeline.comparison.verdict_rule import LOOKS, Errors, Judgement, Sample, Spread, Verdict, judge, pooled, summarise
from pipeline.errors import UserError
from pipeline.models.names import parameters, parse
from pipeline.params import PARAMS, Plan
from pipeline.publication.claims import Claim, Kind, canonical
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
        """How far runs of one cell lie apart, by the prior and all comparable runs, each once by its top-1 error."""
        cells = {
            (claim.dataset, claim.network, claim.preprocessing, claim.dropout): errors_of(claim, self)
            for claim in self.paper.claims
            if claim.kind == "runnable" and claim.metric == "top1_error"
        }
        return pooled(cells.values(), Spread.published(self.paper))


def planned(paper: Paper, plan: Plan, results: Sequence[Result]) -> Comparison:
    """Of those results that count."""
    return Comparison(paper, plan, counted(plan, results))


@dataclass(frozen=True, eq=False)
class Weighed:
    """A finished run of a claim's network on its dataset."""

    result: Result
    error: float
    """By the claim's metric, in percent."""
    deviations: tuple[Deviation, ...]
    reason: str = ""
    """Why the verdict leaves it out; empty for one that it rests on."""

    @property
    def run(self) -> str:
        return self.result.run

    @property
    def material(self) -> tuple[Deviation, ...]:
        """What makes it not comparable; empty for one that is."""
        return tuple(deviation for deviation in self.deviations if deviation.material)


@dataclass(frozen=True, eq=False)
class Cell:
    """A place of a paper's table. Errors and differences are in percent and points."""

    table: str
    dataset: str
    model: str
    """The network's name as the table spells it."""
    metric: str
    kind: Kind | Literal["unpublished"]
    """The claim's kind; unpublished where the paper's table prints a dash."""
    claim: Claim | None
    """None when unpublished."""
    shown: tuple[Weighed, ...] = ()
    """The runs behind `ours`, one per seed."""
    excluded: tuple[Weighed, ...] = ()
    """The other finished runs of the network."""
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
    """Of what is shown, material ones first; without repetition."""
    caveats: tuple[int, ...] = ()

    @property
    def ours(self) -> Sample | None:
        return summarise([run.error for run in self.shown]) if self.shown else None

    @property
    def runs(self) -> tuple[str, ...]:
        """Ids of the runs behind `ours`."""
        return tuple(run.run for run in self.shown)

    @property
    def difference(self) -> float | None:
        """Our mean minus the printed number, in points; None without the two."""
        return self.ours.mean - self.claim.value if self.ours and self.claim else None

    @property
    def interval(self) -> tuple[float, float] | None:
        """Of the difference, by all runs, at 3 % a side, in points."""
        return self.judgement.now.interval if self.judgement else None


def cell_of(claim: Claim, of: Comparison) -> Cell:
    """Join one claim with the finished runs. Raises UserError when the plan has no margin to judge them by."""
    caveats = tuple(caveat.number for caveat in of.paper.caveats if caveat.covers(claim))
    cell = Cell(claim.table, claim.dataset, claim.model, claim.metric, claim.kind, claim, caveats=caveats)
    if claim.kind == "count":
        # A count is the paper's when it rounds to the printed figure; otherwise the network is another one.
        count = parameters(parse(claim.network), of.paper.classes(claim.dataset))
        same = f"{count / 1e6:.{claim.decimals}f}" == claim.text
        return replace(cell, count=count, verdict=Verdict.SAME_COUNT if same else Verdict.OTHER_COUNT)
    if claim.kind != "runnable":
        return cell
    found = _weighed(claim, of)
    if not found:
        return replace(cell, verdict=Verdict.NOT_RUN)
    comparable = [run for run in found if not run.material]
    alike = comparable or _nearest_recipe(found)
    shown = _one_per_seed(alike)
    other = "not comparable" if comparable else "another protocol"
    excluded = [
        replace(run, reason="its seed is counted already" if run in alike else other)
        for run in found
        if run not in shown
    ]
    unique = dict.fromkeys(deviation for run in shown for deviation in run.deviations)
    cell = replace(
        cell,
        shown=tuple(shown),
        excluded=tuple(excluded),
        deviations=tuple(sorted(unique, key=lambda deviation: not deviation.material)),
        verdict=Verdict.NOT_COMPARABLE,
    )
    if not comparable:
        return cell
    margin = of.plan.comparison.margins.get(claim.dataset)
    if margin is None:
        raise UserError(
            f"{PARAMS}: comparison.margins has no margin for {claim.dataset}",
            f"add {claim.dataset}: and the points of error that still are the same, with the reason",
        )
    judgement = judge(claim, errors_of(claim, of), of.spread, margin)
    return replace(cell, verdict=judgement.verdict, judgement=judgement, margin=margin)


def comparable_runs(claim: Claim, of: Comparison) -> list[Weighed]:
    """The runs that count for a claim, one per seed, by seed."""
    return _one_per_seed([run for run in _weighed(claim, of) if not run.material])


def errors_of(claim: Claim, of: Comparison) -> Errors:
    """Of the runs that count for a claim; a number that the paper quotes stands as printed, for one run."""
    images = of.paper.images(claim.dataset, "test")
    if claim.kind == "quoted":
        return Errors((claim.value,), images)
    runs = comparable_runs(claim, of)
    return Errors(tuple(run.error for run in runs), images, _settled([run.result for run in runs], of))


def _settled(ours: Sequence[Result], of: Comparison) -> int:
    """How many of `ours`, the runs that count for a claim, by seed, come before the first planned seed that is missing.

    Where evidence counts, whose plan may be elsewhere, every seed from 1 to its highest is taken for planned: one that
    was left out for what it says would hold up the verdict.
    """
    kinds = {(result.record.dataset, result.network, result.record.protocol_name) for result in ours}
    finished, seeds = {result.run for result in of.results}, {result.record.seed for result in ours}
    expected = {
        run.seed
        for name, run in of.plan.runs.items()
        if name not in finished and (run.dataset, canonical(run.network), run.protocol) in kinds
    }
    expected |= set(range(1, max((result.record.seed for result in ours if result.commit), default=0)))
    missing = min(expected - seeds, default=None)
    return len(ours) if missing is None else sum(seed < missing for seed in seeds)


def _weighed(claim: Claim, of: Comparison) -> list[Weighed]:
    """The runs of a claim's network on its dataset, by id, with their deviations; none for one without a protocol."""
    recipe = of.paper.protocol_of(claim)
    found = []
    for result in sorted(of.results, key=lambda result: result.run):
        error = result.error(claim.metric)
        if recipe and error is not None and (result.network, result.record.dataset) == (claim.network, claim.dataset):
            found.append(Weighed(result, error, deviations(result, claim, recipe, of.paper, of.plan)))
    return found


def _one_per_seed(runs: Sequence[Weighed]) -> list[Weighed]:
    """Two runs of one seed share data order and initialisation, so only the one nearest the paper's recipe counts; of
    equals evidence, which was counted first."""
    best: dict[int, Weighed] = {}
    for run in sorted(runs, key=lambda run: (len(run.deviations), run.result.commit is None, run.run)):
        best.setdefault(run.result.record.seed, run)
    return [best[seed] for seed in sorted(best)]


def _nearest_recipe(runs: Sequence[Weighed]) -> list[Weighed]:
    """Of runs that all deviate materially, those of the one recipe that deviates least; they have a common median."""
    groups: dict[tuple[Deviation, ...], list[Weighed]] = {}
    for run in runs:
        groups.setdefault(run.material, []).append(run)
    fewest = min(groups, key=lambda material: (len(material), -len(groups[material]), material))
    return groups[fewest]


def runs_wanted(cell: Cell, paper: Paper) -> int | None:
    """Further comparable runs until the next look; None where none is left, or no training of this tool answers it."""
    if cell.claim is None or paper.protocol_of(cell.claim) is None:
        return None
    if cell.verdict in (Verdict.NOT_RUN, Verdict.NOT_COMPARABLE):
        return LOOKS[0]
    judged = cell.judgement
    return max(1, judged.next_look - judged.now.n) if judged and judged.next_look else None
