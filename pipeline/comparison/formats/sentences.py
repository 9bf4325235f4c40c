"""Judged orderings as text: a list for readers, CSV and JSON for programs."""

import csv
import io
import json
import textwrap
from collections.abc import Sequence
from typing import Any

from pipeline.comparison.formats import Format
from pipeline.comparison.orderings import SEEDS, Judged, Standing
from pipeline.comparison.statistics import DIFFERS
from pipeline.errors import UserError

_MEANINGS = {
    Standing.HOLDS: f"our runs show it, p <= {DIFFERS:g} for every pair at this look",
    Standing.CONTRADICTED: f"our runs show the opposite of some pair, p <= {DIFFERS:g} over the number of pairs",
    Standing.INCONCLUSIVE: "our runs show neither so far; looks are at 3, 5 and 10 seeds of each network",
    Standing.NOT_RUN: "some network has no comparable run",
}


def render(judged: Sequence[Judged], form: Format, width: int) -> str:
    """What the paper says, and what our runs say of it; in a terminal wrapped at `width` columns.

    Raises UserError for a format that orderings do not have.
    """
    if form == "terminal":
        return _text(judged, width)
    if form == "json":
        return json.dumps([_object(one) for one in judged], indent=2, ensure_ascii=False) + "\n"
    rows = [[o.ordering.name, o.ordering.text, o.ordering.source, str(o.standing), _p(o), _runs(o)] for o in judged]
    if form == "markdown":
        table = [["the paper says", "source", "our runs", "p", "runs"], ["---"] * 5, *(row[1:] for row in rows)]
        return "\n".join(["# Orderings", "", *(f"| {' | '.join(row)} |" for row in table)]) + "\n"
    if form == "csv":
        text = io.StringIO()
        heads = ["ordering", "text", "source", "standing", "p_value", "runs"]
        csv.writer(text, lineterminator="\n").writerows([heads, *rows])
        return text.getvalue()
    raise UserError(f"--orderings has no format {form}", "use --format terminal, markdown, csv or json")


def _text(judged: Sequence[Judged], width: int) -> str:
    lines = ["Orderings: what the paper says about which network is better, judged by our comparable runs", ""]
    for number, one in enumerate(judged, 1):
        said, power = str(one.standing), ""
        if one.p_value is not None and one.standing is not Standing.CONTRADICTED:
            said += f", p = {_p(one)}"
        if one.standing in (Standing.INCONCLUSIVE, Standing.NOT_RUN):
            power = f"; {SEEDS} seeds each show it in {100 * one.power:.0f} of 100 cases"
        told = f"{number}. {one.ordering.text} ({one.ordering.source})"
        lines += textwrap.wrap(told, width, subsequent_indent="   ")
        lines += textwrap.wrap(f"   -> {said}; runs: {_runs(one)}{power}", width, subsequent_indent="   ")
    lines.append("")
    for standing, meaning in _MEANINGS.items():
        if any(one.standing is standing for one in judged):
            lines += textwrap.wrap(f"{standing}: {meaning}", width, subsequent_indent="  ")
    return "\n".join(lines) + "\n"


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


def _p(one: Judged) -> str:
    return "" if one.p_value is None else f"{one.p_value:.4f}"


def _runs(one: Judged) -> str:
    return ", ".join(f"{lower} against {higher}" for lower, higher in one.runs)
