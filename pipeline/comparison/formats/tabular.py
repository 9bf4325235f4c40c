"""Comparisons for programs: CSV and JSON, one row or object per place of a paper's table."""

import json
from collections.abc import Sequence
from typing import Any

from pipeline.comparison.cells import Cell
from pipeline.comparison.tables import Table, results_schema
from pipeline.publication.paper import Paper


def render_csv(tables: Sequence[Table], paper: Paper) -> str:
    """All cells under one header, checked against `results_schema`."""
    import pandas as pd

    schema = results_schema(paper)
    rows = [row(cell) for table in tables for cell in table.cells]
    frame = schema.validate(pd.DataFrame(rows, columns=list(schema.columns), dtype=str))
    return str(frame.to_csv(index=False, lineterminator="\n"))


def row(cell: Cell) -> dict[str, str]:
    """A cell as a row of `results_schema`."""
    ours, judgement, interval = cell.ours, cell.judgement, cell.interval
    return {
        "table": cell.table,
        "network": cell.model,
        "dataset": cell.dataset,
        "metric": cell.metric,
        "kind": cell.kind,
        "published": cell.claim.text if cell.claim else "-",
        "statistic": cell.claim.statistic if cell.claim else "",
        "n": str(ours.n) if ours else "",
        "mean": _number(ours.mean) if ours else "",
        "median": _number(ours.median) if ours else "",
        "min": _number(ours.smallest) if ours else "",
        "max": _number(ours.largest) if ours else "",
        "sd": _number(ours.sd) if ours else "",
        "count": "" if cell.count is None else str(cell.count),
        "time": "" if cell.time is None else f"{cell.time:.3f}",
        "difference": _signed(cell.difference),
        "low": _signed(interval[0]) if interval else "",
        "high": _signed(interval[1]) if interval else "",
        "margin": _number(cell.margin),
        "verdict": str(cell.verdict or ""),
        "look": str(judgement.look.n) if judgement and judgement.look else "",
        "next_look": str(judgement.next_look or "") if judgement else "",
        "deviations": "; ".join(f"{d} ({'material' if d.material else 'minor'})" for d in cell.deviations),
        "caveats": " ".join(map(str, cell.caveats)),
        "runs": " ".join(cell.runs),
        "origins": "; ".join(dict.fromkeys(cell.origins)),
        "excluded": " ".join(excluded.run for excluded in cell.excluded),
    }


def render_json(tables: Sequence[Table]) -> str:
    """A list of tables, each with its cells, its footnotes, and null for what does not exist."""
    return json.dumps([_table(table) for table in tables], indent=2, ensure_ascii=False) + "\n"


def _table(table: Table) -> dict[str, Any]:
    return {
        "table": table.name,
        "title": table.title,
        "cells": [_cell(cell) for cell in table.cells],
        "footnotes": {str(caveat.number): caveat.text for caveat in table.caveats},
    }


def _cell(cell: Cell) -> dict[str, Any]:
    ours, judgement, interval = cell.ours, cell.judgement, cell.interval
    return {
        "network": cell.model,
        "dataset": cell.dataset,
        "metric": cell.metric,
        "kind": cell.kind,
        "published": cell.claim.value if cell.claim else None,
        "printed": cell.claim.text if cell.claim else None,
        "statistic": cell.claim.statistic if cell.claim else None,
        "ours": {
            "n": ours.n,
            "mean": round(ours.mean, 3),
            "median": round(ours.median, 3),
            "min": round(ours.smallest, 3),
            "max": round(ours.largest, 3),
            "sd": None if ours.sd is None else round(ours.sd, 3),
        }
        if ours
        else None,
        "count": cell.count,
        "time": cell.time,
        "difference": None if cell.difference is None else round(cell.difference, 3),
        "interval": [round(end, 3) for end in interval] if interval else None,
        "margin": cell.margin,
        "verdict": str(cell.verdict) if cell.verdict else None,
        "judged": {
            "look": judgement.look.n if judgement.look else None,
            "difference": round(judgement.look.difference, 3) if judgement.look else None,
            "interval": [round(end, 3) for end in judgement.look.interval] if judgement.look else None,
            "next_look": judgement.next_look,
            "reach": round(judgement.look.reach, 3) if judgement.look else None,
            "sd": round(judgement.spread, 3),
            "degrees_of_freedom": judgement.freedom,
        }
        if judgement
        else None,
        "deviations": [
            {
                "field": d.field,
                "published": d.published,
                "ours": d.ours,
                "material": d.material,
                "reason": d.reason,
                "evidence": d.evidence,
            }
            for d in cell.deviations
        ],
        "caveats": list(cell.caveats),
        "runs": list(cell.runs),
        "origins": list(cell.origins),
        "excluded": [{"run": e.run, "error": round(e.error, 3), "reason": e.reason} for e in cell.excluded],
    }


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.3f}"


def _signed(value: float | None) -> str:
    return "" if value is None else f"{value:+.3f}"
