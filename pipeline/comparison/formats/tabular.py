"""Comparisons for programs: CSV and JSON, one row or object per place of a paper's table."""

import json
from collections.abc import Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any, get_args

from pipeline.comparison.cells import Cell
from pipeline.comparison.statistics import Verdict
from pipeline.comparison.tables import Table
from pipeline.publication.claims import Kind, Metric, Statistic

if TYPE_CHECKING:
    import pandera.pandas


def results_schema() -> "pandera.pandas.DataFrameSchema":
    """Columns of a results table as results/table-N.csv holds them: exactly these, in this order, all text.

    Errors, differences, intervals and margins are in percent and points with three decimals, counts whole; what does
    not exist is empty. `published` is as printed, or a dash.
    """
    import pandera.pandas as pa

    def text(pattern: str = ".*") -> pa.Column:
        return pa.Column(str, pa.Check.str_matches(f"^(?:{pattern})$"))

    def words(*allowed: str) -> pa.Column:
        return pa.Column(str, pa.Check.isin(allowed))

    number, signed, whole = r"|[0-9]+\.[0-9]{3}", r"|[+-][0-9]+\.[0-9]{3}", "[0-9]*"
    return pa.DataFrameSchema(
        {
            **{"table": text(".+"), "network": text(".+"), "dataset": text("[a-z0-9]+")},
            "metric": words(*get_args(Metric)),
            "kind": words(*get_args(Kind), "unpublished"),
            "published": text(r"-|[0-9]+(\.[0-9]+)?"),
            "statistic": words("", *get_args(Statistic)),
            "n": text(whole),
            **{name: text(number) for name in ("mean", "median", "min", "max", "sd")},
            **{"count": text(whole), "time": text(number)},
            **{name: text(signed) for name in ("difference", "low", "high")},
            "margin": text(number),
            "verdict": words("", *Verdict),
            **{"look": text(whole), "next_look": text(whole), "deviations": text()},
            "caveats": text("|[0-9]+( [0-9]+)*"),
            **{name: text() for name in ("runs", "origins", "excluded")},
        },
        strict=True,
        ordered=True,
        unique=["table", "network", "dataset", "metric"],
    )


def render_csv(tables: Sequence[Table]) -> str:
    """All cells under one header, checked against `results_schema`."""
    import pandas as pd

    schema = results_schema()
    rows = [_row(cell) for table in tables for cell in table.cells]
    frame = schema.validate(pd.DataFrame(rows, columns=list(schema.columns), dtype=str))
    return str(frame.to_csv(index=False, lineterminator="\n"))


def _row(cell: Cell) -> dict[str, str]:
    told = as_object(cell)
    ours, judged, interval = told["ours"] or {}, told["judged"] or {}, told["interval"] or [None, None]
    return {
        "table": cell.table,
        **{name: told[name] for name in ("network", "dataset", "metric", "kind")},
        "published": told["printed"] or "-",
        "statistic": told["statistic"] or "",
        "n": str(ours.get("n", "")),
        **{name: _number(ours.get(name)) for name in ("mean", "median", "min", "max", "sd")},
        "count": "" if cell.count is None else str(cell.count),
        "time": _number(cell.time),
        "difference": _number(cell.difference, "+"),
        "low": _number(interval[0], "+"),
        "high": _number(interval[1], "+"),
        "margin": _number(cell.margin),
        "verdict": told["verdict"] or "",
        "look": str(judged.get("look") or ""),
        "next_look": str(judged.get("next_look") or ""),
        "deviations": "; ".join(f"{d} ({'material' if d.material else 'minor'})" for d in cell.deviations),
        "caveats": " ".join(map(str, cell.caveats)),
        "runs": " ".join(cell.runs),
        "origins": "; ".join(dict.fromkeys(cell.origins)),
        "excluded": " ".join(excluded.run for excluded in cell.excluded),
    }


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
    """A cell as JSON has it."""
    claim, ours, judgement = cell.claim, cell.ours, cell.judgement
    look = judgement.look if judgement else None
    return {
        "network": cell.model,
        "dataset": cell.dataset,
        "metric": cell.metric,
        "kind": cell.kind,
        "published": claim.value if claim else None,
        "printed": claim.text if claim else None,
        "statistic": claim.statistic if claim else None,
        "ours": {
            "n": ours.n,
            "mean": _rounded(ours.mean),
            "median": _rounded(ours.median),
            "min": _rounded(ours.smallest),
            "max": _rounded(ours.largest),
            "sd": _rounded(ours.sd),
        }
        if ours
        else None,
        "count": cell.count,
        "time": cell.time,
        "difference": _rounded(cell.difference),
        "interval": [round(end, 3) for end in cell.interval] if cell.interval else None,
        "margin": cell.margin,
        "verdict": str(cell.verdict) if cell.verdict else None,
        "judged": {
            "look": look.n if look else None,
            "difference": _rounded(look.difference) if look else None,
            "interval": [round(end, 3) for end in look.interval] if look else None,
            "next_look": judgement.next_look,
            "reach": _rounded(look.reach) if look else None,
            "sd": _rounded(judgement.spread),
            "degrees_of_freedom": judgement.freedom,
        }
        if judgement
        else None,
        "deviations": [asdict(deviation) for deviation in cell.deviations],
        "caveats": list(cell.caveats),
        "runs": list(cell.runs),
        "origins": list(cell.origins),
        "excluded": [{"run": e.run, "error": round(e.error, 3), "reason": e.reason} for e in cell.excluded],
    }


def _rounded(value: float | None) -> float | None:
    return None if value is None else round(value, 3)


def _number(value: float | None, sign: str = "") -> str:
    return "" if value is None else f"{value:{sign}.3f}"
