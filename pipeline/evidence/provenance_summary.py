"""Where a number comes from and what would change it, from files, dvc.lock, DVC and git: plain values, for JSON.

What belongs to the checkout and not to the result stands here, not in results/manifest.json, which says why.
"""

import subprocess
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from pipeline.comparison.cells import Cell, runs_wanted
from pipeline.comparison.power import of_claim
from pipeline.comparison.results import Result, load_results
from pipeline.comparison.statistics import Verdict
from pipeline.comparison.tables import table
from pipeline.dvc_lock import LOCK
from pipeline.dvc_lock import read as read_lock
from pipeline.errors import UserError
from pipeline.evidence import table_manifest
from pipeline.params import Plan
from pipeline.provenance import commit
from pipeline.publication.caveats import load_caveats
from pipeline.publication.claims import canonical, check_filters, table_name
from pipeline.publication.paper import TITLES
from pipeline.publication.protocols import protocol_of
from pipeline.runner.dag import Stage, read_dag, with_needed
from pipeline.runner.dvc import changes
from pipeline.runner.remote import to_have
from pipeline.runner.running_stages import running_stages

SEEDS = 5
"""What is suggested to plan of each network, where no verdict needs more."""


def of_run(plan: Plan, run_id: str) -> dict[str, Any]:
    """The story of one run. Raises UserError for one that is not in the plan, or not evaluated."""
    plan.run(run_id)
    results = load_results(Path())
    (told,) = _of_runs(plan, [run_id], results)
    cells = [cell for name in TITLES for cell in table(plan, name, results).cells]
    behind = [cell for cell in cells if run_id in (*cell.runs, *(each.run for each in cell.excluded))]
    return {**told, "claims": [_of_cell(cell, plan) for cell in behind], "checkout": _checkout()}


def of_claims(plan: Plan, paper_table: str, row: str, dataset: str | None) -> dict[str, Any]:
    """The stories of a row's cells in a table of the paper, and of the runs behind them.

    Raises UserError that names the nearest where the paper has no such place.
    """
    name = table_name(paper_table)
    check_filters([name], dataset, row)
    results = load_results(Path())
    cells = [
        cell
        for cell in table(plan, name, results).cells
        if canonical(cell.model) == canonical(row) and dataset in (None, cell.dataset)
    ]
    runs = list(dict.fromkeys(run for cell in cells for run in cell.runs))
    told = [_of_cell(cell, plan) for cell in cells]
    return {"cells": told, "runs": _of_runs(plan, runs, results), "checkout": _checkout()}


def seeds_to_plan(cell: Cell) -> int:
    """How many seeds of a network `wrn-pipe plan` should know, for a cell that waits for runs."""
    counted = cell.ours.n if cell.ours and cell.verdict is Verdict.INCONCLUSIVE else 0
    return max(SEEDS, (runs_wanted(cell) or 0) + counted)


def _outlook(cell: Cell, plan: Plan) -> dict[str, Any] | None:
    """Of a claim that no comparable run has been made for."""
    if cell.claim is None or cell.judgement or not runs_wanted(cell):
        return None
    told = of_claim(cell.claim, plan, seeds_to_plan(cell))
    return {**asdict(told), "text": str(told)} if told else None


def _of_cell(cell: Cell, plan: Plan) -> dict[str, Any]:
    """What the paper prints, where and by what protocol; what we have, and what the two add up to."""
    paper = protocol_of(cell.claim) if cell.claim else None
    return {
        "table": cell.table,
        "title": TITLES[cell.table],
        "claim": cell.claim.id if cell.claim else None,
        "network": cell.model,
        "dataset": cell.dataset,
        "metric": cell.metric,
        "kind": cell.kind,
        "printed": cell.claim.text if cell.claim else None,
        "statistic": cell.claim.statistic if cell.claim else None,
        "protocol": paper.name if paper else None,
        "count": cell.count,
        "mean": cell.ours.mean if cell.ours else None,
        "median": cell.ours.median if cell.ours else None,
        "difference": cell.difference,
        "interval": cell.interval,
        "margin": cell.margin,
        "verdict": str(cell.verdict) if cell.verdict else None,
        "runs_wanted": runs_wanted(cell),
        "seeds_to_plan": seeds_to_plan(cell) if runs_wanted(cell) else None,
        "outlook": _outlook(cell, plan),
        "deviations": [
            {
                "text": str(d),
                "material": d.material,
                "reason": d.reason,
                "evidence": d.evidence,
                "source": _source(paper, d.field),
            }
            for d in cell.deviations
        ],
        "runs": list(cell.runs),
        "excluded": [{"run": e.run, "error": e.error, "reason": e.reason} for e in cell.excluded],
        "footnotes": {str(c.number): c.text for c in load_caveats() if c.number in cell.caveats},
    }


def _source(paper: Any, field: str) -> str | None:
    return paper.sources.get(field) if paper else None


def _of_runs(plan: Plan, run_ids: Sequence[str], results: Sequence[Result]) -> list[dict[str, Any]]:
    """What the manifest says of each run, with its stages as dvc.lock and `dvc status` have them."""
    told = {result.run: table_manifest.run(plan, result, Path()) for result in results if result.run in run_ids}
    for run_id in run_ids:
        if run_id not in told:
            raise UserError(f"run {run_id} has no evaluation here", f"wrn-pipe repro {run_id}")
    entries = read_lock()
    dag = read_dag(plan)
    stale = _stale(dag, [name for run in told.values() for name in run["stages"]])
    return [_of_run(run_id, told[run_id], entries, dag, stale) for run_id in run_ids]


def _of_run(
    run_id: str, told: dict[str, Any], entries: dict[str, Any], dag: dict[str, Stage], stale: dict[str, list[str]]
) -> dict[str, Any]:
    absent = [path for path in told["files"] if not Path(path).exists()]
    lock = {
        name: {
            "outs": {out["path"]: out["md5"] for out in entries.get(name, {}).get("outs", ())},
            "stale": (_edits(stale.get(name, [])) if absent else stale.get(name)) or None,
            "settings": list(dag[name].params),
            "inputs": list(dag[name].deps),
            "command": dag[name].command,
        }
        for name in told["stages"]
    }
    return {
        "run": run_id,
        **told,
        "absent": absent,
        "to_have": to_have(run_id) if absent else None,
        "lock": lock,
        "recorded_in": _recorded_in(entries.get(f"train@{run_id}", {})),
    }


def _stale(dag: dict[str, Stage], names: Sequence[str]) -> dict[str, list[str]]:
    """Of these stages those that DVC finds out of date, with what changed; of one that runs right now, that it does."""
    running = running_stages(dag)
    told: dict[str, list[str]] = {}
    for name in names:  # DVC refuses to look at what a running stage writes
        if busy := [each for each in with_needed(dag, [name]) if each in running]:
            told[name] = [f"{stage} runs (process {running[stage]})" for stage in busy]
    asked = [name for name in dict.fromkeys(names) if name not in told]
    changed = changes(asked)
    return told | {name: [line for part in found for line in _lines(part)] for name, found in changed.items()}


def _edits(lines: Sequence[str]) -> list[str]:
    """Without what only says that files are not here."""
    return [line for line in lines if not line.endswith((": deleted", ": not in cache"))]


def _lines(reason: Any) -> list[str]:
    if not isinstance(reason, dict):
        return [str(reason)]
    return [
        f"{path}: {how if isinstance(how, str) else ', '.join(how)}"
        for part in reason.values()
        for path, how in (part.items() if isinstance(part, dict) else ())
    ]


def _recorded_in(entry: dict[str, Any]) -> str | None:
    """The newest commit that wrote the md5 of these weights into dvc.lock; None where none has."""
    md5s = [out["md5"] for out in entry.get("outs", ()) if out["path"].endswith(".safetensors")]
    if not md5s:
        return None
    done = subprocess.run(
        ["git", "log", "-1", "--format=%H", f"-S{md5s[0]}", "--", str(LOCK)],
        capture_output=True,
        text=True,
        check=False,
    )
    return done.stdout.strip() or None


def _checkout() -> dict[str, Any]:
    head, dirty = commit()
    return {"commit": head, "dirty": dirty}
