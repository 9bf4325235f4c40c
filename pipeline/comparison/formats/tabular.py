"""Comparisons for programs: CSV and JSON, one row or object per place of a paper's table."""

import json
from collections.abc import Callable, Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any, get_args

from pipeline.comparison.cells import Cell
from pipeline.comparison.tables import Table
from pipeline.comparison.verdict_rule import Verdict
from pipeline.publication.claims import Kind, Statistic, one_of, schema

if TYPE_CHECKING:
    import pandera.pandas

_WHOLE, _NUMBER, _SIGNED = "[0-9]*", r"|[0-9]+\.[0-9]{3}", r"|[+-][0-9]+\.[0-9]{3}"


_COLUMNS: dict[str, tuple[str, Callable[[Cell], Any]]] = {
    "table": (".+", lambda cell: cell.table),
    "network": (".+", lambda cell: cell.model),
    "dataset": ("[a-z0-9]+", lambda cell: cell.dataset),
    "metric": ("[a-z0-9_]+", lambda cell: cell.metric),
    "kind": (one_of(*get_args(Kind), "unpublished"), lambda cell: cell.kind),
    "published": (r"-|[0-9]+(\.[0-9]+)?", lambda cell: cell.claim.text if cell.claim else "-"),
    "statistic": (one_of("", *get_args(Statistic)), lambda cell: cell.claim and cell.claim.statistic),
    "n": (_WHOLE, lambda cell: cell.ours and cell.ours.n),
    "mean": (_NUMBER, lambda cell: cell.ours and cell.ours.mean),
    "median": (_NUMBER, lambda cell: cell.ours and cell.ours.median),
    "min": (_NUMBER, lambda cell: cell.ours and cell.ours.min),
    "max": (_NUMBER, lambda cell: cell.ours and cell.ours.max),
    "sd": (_NUMBER, lambda cell: cell.ours and cell.ours.sd),
    "count": (_WHOLE, lambda cell: cell.count),
    "time": (_NUMBER, lambda cell: cell.time),
    "difference": (_SIGNED, lambda cell: cell.difference),
    "low": (_SIGNED, lambda cell: cell.interval and cell.interval[0]),
    "high": (_SIGNED, lambda cell: cell.interval and cell.interval[1]),
    "margin": (_NUMBER, lambda cell: cell.margin),
    "verdict": (one_of("", *Verdict), lambda cell: cell.verdict),
    "look": (_WHOLE, lambda cell: cell.judgement and cell.judgement.look and cell.judgement.look.n),
    "next_look": (_WHOLE, lambda cell: cell.judgement and cell.judgement.next_look),
    "deviations": (
        ".*",
        lambda cell: "; ".join(f"{d} ({'material' if d.material else 'minor'})" for d in cell.deviations),
    ),
    "caveats": ("|[0-9]+( [0-9]+)*", lambda cell: " ".join(map(str, cell.caveats))),
    "runs": (".*", lambda cell: " ".join(cell.runs)),
    "origins": (".*", lambda cell: "; ".join(dict.fromkeys(run.result.origin for run in cell.shown))),
    "excluded": (".*", lambda cell: " ".join(run.run for run in cell.excluded)),
}
"""Name in results/table-N.csv -> the pattern of its text, and its value in a cell.

Errors, differences, intervals and margins are in percent and points with three decimals, counts whole; what does not
exist is empty. `published` is as printed, or a dash.
"""


def results_schema() -> "pandera.pandas.DataFrameSchema":
    """Of a results table."""
    patterns = {name: pattern for name, (pattern, _) in _COLUMNS.items()}
    return schema(patterns, unique=["table", "network", "dataset", "metric"])


def render_csv(tables: Sequence[Table]) -> str:
    """All cells under one header, checked against `results_schema`."""
    import pandas as pd

    cells = [cell for table in tables for cell in table.cells]
    columns = {name: [_text(value(cell), pattern) for cell in cells] for name, (pattern, value) in _COLUMNS.items()}
    frame = results_schema().validate(pd.DataFrame(columns, dtype=str))
    return str(frame.to_csv(index=False, lineterminator="\n"))


def _text(value: Any, pattern: str) -> str:
    if isinstance(value, float):
        return f"{value:{'+' if pattern is _SIGNED else ''}.3f}"
    return "" if value is None else str(value)


def render_json(tables: Sequence[Table]) -> str:
    """A list of tables, each with its cells, its footnotes, and null for what does not exist."""
    told = [
        {
            "table": table.name,
            "title": table.title,
            "cells": [as_object(cell) for cell in table.cells],
            "footnotes": {str(caveat.number): caveat.text for caveat in table.caveats},
        }
        for table in tables
    ]
    return json.dumps(told, indent=2, ensure_ascii=False) + "\n"


def as_object(cell: Cell) -> dict[str, Any]:
    """A cell as JSON has it, numbers with three decimals."""
    claim, judgement = cell.claim, cell.judgement
    look = judgement.look if judgement else None
    same = ("network", "dataset", "metric", "kind", "statistic", "count", "time", "difference", "margin", "verdict")
    told = {
        **{name: _COLUMNS[name][1](cell) for name in same},
        "published": claim and claim.value,
        "printed": claim and claim.text,
        "ours": cell.ours and asdict(cell.ours),
        "interval": cell.interval,
        "judged": judgement
        and {
            "look": look and look.n,
            "difference": look and look.difference,
            "interval": look and look.interval,
            "next_look": judgement.next_look,
            "reach": look and look.reach,
            "sd": judgement.spread,
            "degrees_of_freedom": judgement.freedom,
        },
        "deviations": [asdict(deviation) for deviation in cell.deviations],
        "caveats": cell.caveats,
        "runs": cell.runs,
        "origins": [run.result.origin for run in cell.shown],
        "excluded": [{"run": run.run, "error": run.error, "reason": run.reason} for run in cell.excluded],
    }
    rounded: dict[str, Any] = json.loads(json.dumps(told), parse_float=lambda number: round(float(number), 3))
    return rounded
