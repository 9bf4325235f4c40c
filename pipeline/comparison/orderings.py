"""Which network is better: the evidence of our own runs for what the paper says."""

from dataclasses import dataclass, replace
from enum import StrEnum
from statistics import fmean

from pipeline.comparison.cells import Comparison, errors_of
from pipeline.comparison.statistical_power import of_ordering
from pipeline.comparison.statistics import DIFFERS, Errors, p_value
from pipeline.publication.claims import Claim
from pipeline.publication.paper import Ordering

SEEDS = 5
"""Runs of each network by which an ordering's power is told: what `wrn-pipe plan` adds unless told otherwise."""


class Standing(StrEnum):
    """What our runs say of an ordering."""

    HOLDS = "holds"
    CONTRADICTED = "contradicted"
    INCONCLUSIVE = "inconclusive"
    NOT_RUN = "not run"


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


def judge_ordering(ordering: Ordering, of: Comparison) -> Judged:
    """Judge one ordering by the runs that are comparable with the paper's, at their last common look.

    It holds when every pair has p <= DIFFERS in its favour (so no correction for several pairs is needed), and is
    contradicted when some pair has p <= DIFFERS against it after Bonferroni's correction.
    """
    sides = [(errors_of(lower, of), errors_of(higher, of)) for lower, higher in ordering.pairs]
    runs = tuple((len(lower.values), len(higher.values)) for lower, higher in sides)
    differences = tuple(
        fmean(lower.values) - fmean(higher.values) if lower.values and higher.values else None
        for lower, higher in sides
    )
    looked = [_at_common_look(higher, *both) for (_, higher), both in zip(ordering.pairs, sides, strict=True)]
    measured = [(lower, higher) for lower, higher in looked if lower.values and higher.values]
    against = [p_value(higher, lower, of.spread) for lower, higher in measured]
    p = max(p_value(lower, higher, of.spread) for lower, higher in measured) if len(measured) == len(sides) else None
    if any(value <= DIFFERS / len(sides) for value in against):
        standing = Standing.CONTRADICTED
    elif None in differences:
        standing = Standing.NOT_RUN
    else:
        standing = Standing.HOLDS if p is not None and p <= DIFFERS else Standing.INCONCLUSIVE
    return Judged(ordering, standing, p, differences, runs, of_ordering(ordering.pairs, SEEDS, of.paper))


def _at_common_look(higher: Claim, ours: Errors, others: Errors) -> tuple[Errors, Errors]:
    """Both sides at the last look that both have reached; only the higher one is ever quoted."""
    if higher.kind == "quoted":
        return replace(ours, values=ours.at_look), others
    look = min(len(ours.at_look), len(others.at_look))
    return replace(ours, values=ours.values[:look]), replace(others, values=others.values[:look])
