"""Which network is better: the evidence of our own runs for what the paper says, judged and in words."""

import csv
import io
import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from statistics import fmean
from typing import Any

from pipeline.comparison.cells import Comparison, errors_of
from pipeline.comparison.formats import environment, wrapped
from pipeline.comparison.statistical_power import of_ordering
from pipeline.comparison.verdict_rule import DIFFERS, Errors, p_value
from pipeline.errors import UserError
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


_MEANINGS = {
    Standing.HOLDS: f"our runs show it, p <= {DIFFERS:g} for every pair at this look",
    Standing.CONTRADICTED: f"our runs show the opposite of some pair, p <= {DIFFERS:g} over the number of pairs",
    Standing.INCONCLUSIVE: "our runs show neither so far; looks are at 3, 5 and 10 seeds of each network",
    Standing.NOT_RUN: "some network has no comparable run",
}


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


def in_words(judged: Sequence[Judged], form: str, width: int) -> str:
    """What the paper says, and what our runs say of it; in a terminal wrapped at `width` columns.

    Raises UserError for a format that orderings do not have.
    """
    told = [_object(one) for one in judged]
    if form == "json":
        return json.dumps(told, indent=2, ensure_ascii=False) + "\n"
    for row, one in zip(told, judged, strict=True):
        row["p_value"] = "" if one.p_value is None else f"{one.p_value:.4f}"
        row["runs"] = ", ".join(f"{lower} against {higher}" for lower, higher in one.runs)
    if form == "csv":
        text = io.StringIO()
        columns = ["ordering", "text", "source", "standing", "p_value", "runs"]
        writer = csv.DictWriter(text, columns, extrasaction="ignore", lineterminator="\n")
        writer.writeheader()
        writer.writerows(told)
        return text.getvalue()
    if form not in ("terminal", "markdown"):
        raise UserError(f"--orderings has no format {form}", "use --format terminal, markdown, csv or json")
    page = environment(form).get_template(f"orderings.{form}.jinja")
    filled = page.render(orderings=told, meanings=_MEANINGS, seeds=SEEDS)
    return wrapped(filled, width) if form == "terminal" else filled


def _object(one: Judged) -> dict[str, Any]:
    pairs = zip(one.ordering.pairs, one.differences, one.runs, strict=True)
    return {
        "ordering": one.ordering.name,
        "text": one.ordering.text,
        "source": one.ordering.source,
        "standing": one.standing,
        "p_value": None if one.p_value is None else round(one.p_value, 4),
        "power": round(one.power, 2),
        "pairs": [
            {
                "lower": lower.id,
                "higher": higher.id,
                "published_difference": round(lower.value - higher.value, 3),
                "difference": None if difference is None else round(difference, 3),
                "runs": runs,
            }
            for (lower, higher), difference, runs in pairs
        ],
    }
