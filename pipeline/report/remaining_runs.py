"""What is still to be trained before the tables have their verdicts, and what it would cost."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from shlex import quote

from pipeline.comparison.cells import runs_wanted
from pipeline.comparison.power import Outlook, of_claim
from pipeline.comparison.tables import Table
from pipeline.comparison.training_cost import Cost, training_cost
from pipeline.params import Plan
from pipeline.publication.claims import Claim
from pipeline.publication.protocols import protocol_of, published_images


@dataclass(frozen=True)
class Ahead:
    """Trainings of one network by one of the paper's protocols that claims wait for."""

    dataset: str
    network: str
    """Canonical name."""
    protocol: str
    claims: tuple[Claim, ...]
    runs: int
    """Further runs, each with a seed of its own, until the claims can be judged."""
    seeds: int
    """Runs in all: those that count already, and the further ones."""
    each: Cost
    outlooks: tuple[Outlook, ...]
    """By `seeds` runs, of those of its claims that no run has been compared with yet."""

    @property
    def cost(self) -> Cost:
        return self.each * self.runs

    @property
    def command(self) -> str:
        """What plans the first of its claims."""
        claim = self.claims[0]
        where = f"--paper-table {claim.table} --row {quote(claim.model)} --dataset {claim.dataset}"
        return f"wrn-pipe plan {where} --seeds {self.seeds}"


@dataclass(frozen=True)
class Unfinished:
    """A run of params.yaml that has no result yet."""

    run: str
    cost: Cost


def ahead(tables: Iterable[Table], plan: Plan) -> list[Ahead]:
    """The trainings that the cells of `tables` wait for, each once however many claims it serves."""
    waiting: dict[tuple[str, str, str], tuple[list[Claim], list[Claim], int, int]] = {}
    for cell in (cell for table in tables for cell in table.cells):
        wanted, claim = runs_wanted(cell), cell.claim
        paper = protocol_of(claim) if claim else None
        if wanted is None or claim is None or paper is None:
            continue
        counted = cell.ours.n if cell.ours and cell.judgement else 0
        claims, fresh, runs, seeds = waiting.get((claim.dataset, claim.network, paper.name), ([], [], 0, 0))
        waiting[claim.dataset, claim.network, paper.name] = (
            [*claims, claim],
            fresh if cell.judgement else [*fresh, claim],
            max(runs, wanted),
            max(seeds, wanted + counted),
        )
    return [_ahead(key, *found, plan) for key, found in waiting.items()]


def unfinished(plan: Plan, finished: Sequence[str]) -> list[Unfinished]:
    """Runs of the plan that are not among the ids `finished`."""
    return [
        Unfinished(
            run_id,
            training_cost(run.network, plan.datasets[run.dataset].splits["train"], plan.protocols[run.protocol]),
        )
        for run_id, run in plan.runs.items()
        if run_id not in finished
    ]


def total(costs: Iterable[Cost]) -> Cost:
    return sum(costs, start=Cost(0.0, 0.0))


def _ahead(
    key: tuple[str, str, str], claims: Sequence[Claim], fresh: Sequence[Claim], runs: int, seeds: int, plan: Plan
) -> Ahead:
    dataset, network, protocol = key
    paper = protocol_of(claims[0])
    assert paper is not None, "only claims with a protocol wait"
    each = training_cost(network, published_images(dataset, "train"), paper.protocol)
    outlooks = tuple(told for claim in fresh if (told := of_claim(claim, plan, seeds)))
    return Ahead(dataset, network, protocol, tuple(claims), runs, seeds, each, outlooks)
