"""Which network is better: what the paper says, and the evidence of our own runs. The list is orderings.yaml."""

import functools
from collections.abc import Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from pathlib import Path
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field
from ruamel.yaml import YAML

from pipeline.comparison.cells import errors_of, spread_of
from pipeline.comparison.power import of_ordering
from pipeline.comparison.results import Result
from pipeline.comparison.statistics import DIFFERS, Errors, Spread, p_value
from pipeline.params import Plan
from pipeline.publication.claims import Claim, load_claims
from pipeline.publication.protocols import published_images

SEEDS = 5
"""Runs of each network by which an ordering's power is told: what `wrn-pipe plan` adds unless told otherwise."""
ORDERINGS = Path(__file__).parents[1] / "publication" / "orderings.yaml"


class Standing(StrEnum):
    """What our runs say of an ordering."""

    HOLDS = "holds"
    CONTRADICTED = "contradicted"
    INCONCLUSIVE = "inconclusive"
    NOT_RUN = "not run"


class _Entry(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)

    text: str
    source: str
    pairs: list[Annotated[list[str], Field(min_length=2, max_length=2)]] = Field(min_length=1)


@dataclass(frozen=True)
class Ordering:
    """One statement of the paper about the order of errors."""

    name: str
    text: str
    source: str
    pairs: tuple[tuple[Claim, Claim], ...]
    """(lower error, higher error), as the paper has it."""


@dataclass(frozen=True)
class Judged:
    """An ordering with the evidence for it."""

    ordering: Ordering
    standing: Standing
    p_value: float | None
    """The largest of its pairs: all of them have to hold. None when some pair has a side without a look."""
    differences: tuple[float | None, ...]
    """Of each pair: our mean error of the first minus that of the second, in points."""
    runs: tuple[tuple[int, int], ...]
    """Of each pair: how many comparable runs each side has."""
    power: float
    """Probability that it is said to hold by SEEDS runs of each network, if the printed numbers are true."""


@functools.cache
def load_orderings() -> tuple[Ordering, ...]:
    """All orderings, in the paper's order. Raises KeyError when one names a claim that claims.csv does not have."""
    claims = {claim.id: claim for claim in load_claims()}
    found = []
    for name, value in YAML(typ="safe", pure=True).load(ORDERINGS.read_text(encoding="utf-8")).items():
        entry = _Entry.model_validate(value)
        pairs = [(claims[f"{lower}/top1_error"], claims[f"{higher}/top1_error"]) for lower, higher in entry.pairs]
        found.append(Ordering(name, entry.text, entry.source, tuple(pairs)))
    return tuple(found)


def judge_ordering(ordering: Ordering, plan: Plan, results: Sequence[Result], spread: Spread | None = None) -> Judged:
    """Judge one ordering by the runs of the plan that are comparable with the paper's, at their last common look.

    It holds when every pair has p <= DIFFERS in its favour (so no correction for several pairs is needed), and is
    contradicted when some pair has p <= DIFFERS against it after Bonferroni's correction.
    `spread`: that of `cells.spread_of`, computed where it is not given.
    """
    planned = [result for result in results if result.run in plan.runs]
    spread = spread or spread_of(plan, planned)
    sides = [tuple(_errors(claim, plan, planned) for claim in pair) for pair in ordering.pairs]
    runs = tuple((len(lower.values), len(higher.values)) for lower, higher in sides)
    differences = tuple(
        _mean(lower) - _mean(higher) if lower.values and higher.values else None for lower, higher in sides
    )
    judged = [_common_look(pair, lower, higher) for pair, (lower, higher) in zip(ordering.pairs, sides, strict=True)]
    measured = [(lower, higher) for lower, higher in judged if lower.values and higher.values]
    against = [p_value(higher, lower, spread) for lower, higher in measured]
    p = max(p_value(lower, higher, spread) for lower, higher in measured) if len(measured) == len(sides) else None
    if any(value <= DIFFERS / len(sides) for value in against):
        standing = Standing.CONTRADICTED
    elif any(difference is None for difference in differences):
        standing = Standing.NOT_RUN
    else:
        standing = Standing.HOLDS if p is not None and p <= DIFFERS else Standing.INCONCLUSIVE
    return Judged(ordering, standing, p, differences, runs, of_ordering(ordering.pairs, SEEDS))


def _errors(claim: Claim, plan: Plan, results: Sequence[Result]) -> Errors:
    """Of a claim's comparable runs; a number that the paper quotes stands as printed, for one run."""
    if claim.kind == "quoted":
        return Errors((claim.value,), published_images(claim.dataset, "test"))
    return errors_of(claim, plan, results)


def _common_look(pair: tuple[Claim, Claim], lower: Errors, higher: Errors) -> tuple[Errors, Errors]:
    """Both sides at the last look that both have reached."""
    both = tuple(zip(pair, (lower, higher), strict=True))
    look = min(len(side.at_look) for claim, side in both if claim.kind != "quoted")
    first, second = (
        side if claim.kind == "quoted" else replace(side, values=side.values[:look], settled=None)
        for claim, side in both
    )
    return first, second


def _mean(side: Errors) -> float:
    return sum(side.values) / len(side.values)
