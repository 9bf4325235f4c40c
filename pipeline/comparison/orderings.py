"""Which network is better: what the paper says, and the evidence of our own runs. The list is orderings.yaml."""

import functools
import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field
from ruamel.yaml import YAML

from pipeline.comparison.cells import comparable_runs
from pipeline.comparison.results import Result
from pipeline.comparison.statistics import LEVEL
from pipeline.params import Plan
from pipeline.publication.claims import Claim, load_claims

ORDERINGS = Path(__file__).parents[1] / "publication" / "orderings.yaml"
_RESAMPLES = 20_000
"""Permutations looked at when there are more than this; all of them when there are fewer (five against five: 252)."""


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
    """The largest of its pairs: all of them have to hold. None when some pair has no comparable runs on one side."""
    differences: tuple[float | None, ...]
    """Of each pair: our mean error of the first minus that of the second, in points."""
    runs: tuple[tuple[int, int], ...]
    """Of each pair: how many comparable runs each side has."""


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


def judge_ordering(ordering: Ordering, plan: Plan, results: Sequence[Result]) -> Judged:
    """Judge one ordering by the runs of the plan that are comparable with the paper's protocol.

    It holds when every pair has p <= 0.05 in its favour (so no correction for several pairs is needed), and is
    contradicted when some pair has p <= 0.05 against it after Bonferroni's correction.
    """
    planned = [result for result in results if result.run in plan.runs]
    sides = [[[e for _, e in comparable_runs(claim, plan, planned)] for claim in pair] for pair in ordering.pairs]
    runs = tuple((len(lower), len(higher)) for lower, higher in sides)
    differences = tuple(_mean(lower) - _mean(higher) if lower and higher else None for lower, higher in sides)
    measured = [(lower, higher) for lower, higher in sides if lower and higher]
    against = [p_value(higher, lower) for lower, higher in measured]
    complete = len(measured) == len(sides)
    p = max(p_value(lower, higher) for lower, higher in measured) if complete else None
    if any(value <= LEVEL / len(sides) for value in against):
        standing = Standing.CONTRADICTED
    elif p is None:
        standing = Standing.NOT_RUN
    else:
        standing = Standing.HOLDS if p <= LEVEL else Standing.INCONCLUSIVE
    return Judged(ordering, standing, p, differences, runs)


def p_value(lower: Sequence[float], higher: Sequence[float]) -> float:
    """One-sided permutation test: how often would chance put the mean of `lower` this far below that of `higher`?

    Assumes that, without a difference, it were chance which run belongs to which network. Exact for up to _RESAMPLES
    permutations, else by as many from a generator with a fixed seed. Three runs against three reach 0.05 at best.
    """
    import numpy as np

    n, total = len(lower), len(lower) + len(higher)
    errors = np.sort(np.asarray([*lower, *higher], dtype=float))
    if math.comb(total, n) <= _RESAMPLES:
        chosen = np.array(list(itertools.combinations(range(total), n)))
        seen = 0
    else:
        generator = np.random.default_rng(0)
        chosen = np.argsort(generator.random((_RESAMPLES, total)), axis=1)[:, :n]
        seen = 1  # what was observed is one of the permutations, so p is never 0
    # With the total fixed, a lower mean of the first group is a lower sum. Errors are multiples of 0.0001 points at
    # the finest; less than that is floating-point noise.
    extreme = int(np.sum(errors[chosen].sum(axis=1) <= math.fsum(lower) + 1e-6))
    return (extreme + seen) / (len(chosen) + seen)


def _mean(errors: Sequence[float]) -> float:
    return sum(errors) / len(errors)
