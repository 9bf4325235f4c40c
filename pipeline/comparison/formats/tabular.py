"""Comparisons for programs: CSV and JSON, one row or object per place of a paper's table."""

import json
from collections.abc import Callable, Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any, get_args

from pipeline.comparison.cells import Cell
from pipeline.comparison.statistics import Verdict
from pipeline.comparison.tables import Table
from pipeline.publication.claims import Kind, Metric, Statistic, one_of, schema

if TYPE_CHECKING:
    import pandera.pandas

_WHOLE, _NUMBER, _SIGNED = "[0-9]*", r"|[0-9]+\.[0-9]{3}", r"|[+-][0-9]+\.[0-9]{3}"


def _ours(name: str) -> Callable[[Cell], Any]:
    return lambda cell: getattr(cell.ours, name, None)


_COLUMNS: dict[str, tuple[str, Callable[[Cell], Any]]] = {
    "table": (".+", lambda cell: cell.table),
    "network": (".+", lambda cell: cell.model),
    "dataset": ("[a-z0-9]+", lambda cell: cell.dataset),
    "metric": (one_of(*get_args(Metric)), lambda cell: cell.metric),
    "kind": (one_of(*get_args(Kind), "unpublished"), lambda cell: cell.kind),
    "published": (r"-|[0-9]+(\.[0-9]+)?", lambda cell: cell.claim.text if cell.claim else "-"),
    "statistic": (one_of("", *get_args(Statistic)), lambda cell: cell.claim and cell.claim.statistic),
    "n": (_WHOLE, _ours("n")),
    **{name: (_NUMBER, _ours(name)) for name in ("mean", "median", "min", "max", "sd")},
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

    rows = [
        {name: _text(value(cell), pattern) for name, (pattern, value) in _COLUMNS.items()}
        for table in tables
        for cell in table.cells
    ]
    frame = results_schema().validate(pd.DataFrame(rows, columns=list(_COLUMNS), dtype=str))
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
    judged = judgement and {
        "look": look and look.n,
        "difference": look and look.difference,
        "interval": look and look.interval,
        "next_look": judgement.next_look,
        "reach": look and look.reach,
        "sd": judgement.spread,
        "degrees_of_freedom": judgement.freedom,
    }
    told = {
        "network": cell.model,
        "dataset": cell.dataset,
        "metric": cell.metric,
        "kind": cell.kind,
        "published": claim and claim.value,
        "printed": claim and claim.text,
        "statistic": claim and claim.statistic,
        "ours": cell.ours and asdict(cell.ours),
        "count": cell.count,
        "time": cell.time,
        "difference": cell.difference,
        "interval": cell.interval,
        "margin": cell.margin,
        "verdict": cell.verdict,
        "judged": judged,
        "deviations": [asdict(deviation) for deviation in cell.deviations],
        "caveats": cell.caveats,
        "runs": cell.runs,
        "origins": [run.result.origin for run in cell.shown],
        "excluded": [{"run": run.run, "error": run.error, "reason": run.reason} for run in cell.excluded],
    }
    return {name: _rounded(value) for name, value in told.items()}


def _rounded(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _rounded(inner) for name, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_rounded(inner) for inner in value]
    return round(value, 3) if isinstance(value, float) else value
