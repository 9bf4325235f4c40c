"""Where a number comes from and what would change it, from files, dvc.lock, DVC and git: plain values, for JSON.

What belongs to the checkout and not to the result stands here, not in results/manifest.json, which says why.
"""

import subprocess
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from pipeline.artifacts import EVIDENCE, ORIGIN, Origin
from pipeline.comparison.cells import Cell, Comparison, planned, runs_wanted
from pipeline.comparison.orderings import SEEDS
from pipeline.comparison.results import load_results
from pipeline.comparison.statistical_power import of_claim, of_ordering
from pipeline.comparison.statistics import Verdict
from pipeline.comparison.tables import table
from pipeline.dvc_lock import LOCK
from pipeline.dvc_lock import read as read_lock
from pipeline.errors import UserError
from pipeline.evidence import table_manifest
from pipeline.params import Plan
from pipeline.provenance import commit
from pipeline.publication.claims import canonical
from pipeline.publication.paper import Paper
from pipeline.runner.dag import Stage, read_dag, with_needed
from pipeline.runner.dvc import ask, only_absent, running_stages
from pipeline.runner.remote import to_have


def of_run(paper: Paper, plan: Plan, run_id: str) -> dict[str, Any]:
    """Where the number of one run comes from. Raises UserError for one that is not evaluated, or unknown."""
    of = _comparison(paper, plan)
    if not any(result.run == run_id for result in of.results):
        plan.run(run_id)
    (told,) = _of_runs(of, [run_id])
    cells = [cell for name in paper.tables for cell in table(name, of).cells]
    behind = [cell for cell in cells if run_id in (*cell.runs, *(each.run for each in cell.excluded))]
    return {**told, "claims": [_of_cell(cell, of) for cell in behind], "checkout": _checkout()}


def of_claims(paper: Paper, plan: Plan, paper_table: str, row: str, dataset: str | None) -> dict[str, Any]:
    """Where the cells of a row in a table of the paper come from, and the runs behind them.

    Raises UserError that names the nearest where the paper has no such place.
    """
    name = paper.table_name(paper_table)
    paper.chosen([name], dataset, row)
    of = _comparison(paper, plan)
    cells = [
        cell
        for cell in table(name, of).cells
        if canonical(cell.model) == canonical(row) and dataset in (None, cell.dataset)
    ]
    runs = list(dict.fromkeys(run for cell in cells for run in cell.runs))
    told = [_of_cell(cell, of) for cell in cells]
    return {"cells": told, "runs": _of_runs(of, runs), "checkout": _checkout()}


def _comparison(paper: Paper, plan: Plan) -> Comparison:
    return planned(paper, plan, load_results(Path()))


def seeds_to_plan(cell: Cell, paper: Paper) -> int:
    """How many seeds of a network `wrn-pipe plan` should know, for a cell that waits for runs."""
    counted = cell.ours.n if cell.ours and cell.verdict is Verdict.INCONCLUSIVE else 0
    return max(SEEDS, (runs_wanted(cell, paper) or 0) + counted)


def _of_cell(cell: Cell, of: Comparison) -> dict[str, Any]:
    """What the paper prints, where and by what protocol; what we have, and what the two add up to."""
    paper, wanted = of.paper, runs_wanted(cell, of.paper)
    recipe, waits = paper.protocol_of(cell.claim) if cell.claim else None, cell.claim if wanted else None
    outlook = of_claim(waits, of.plan, seeds_to_plan(cell, paper), paper) if waits else None
    return {
        "table": cell.table,
        "title": paper.tables[cell.table],
        "claim": cell.claim.id if cell.claim else None,
        "network": cell.model,
        "dataset": cell.dataset,
        "metric": cell.metric,
        "kind": cell.kind,
        "printed": cell.claim.text if cell.claim else None,
        "statistic": cell.claim.statistic if cell.claim else None,
        "protocol": recipe.name if recipe else None,
        "count": cell.count,
        "mean": cell.ours.mean if cell.ours else None,
        "median": cell.ours.median if cell.ours else None,
        "difference": cell.difference,
        "interval": cell.interval,
        "margin": cell.margin,
        "verdict": str(cell.verdict) if cell.verdict else None,
        "runs_wanted": wanted,
        "seeds_to_plan": seeds_to_plan(cell, paper) if wanted else None,
        "outlook": {**asdict(outlook), "text": str(outlook)} if outlook else None,
        "orderings": [
            {"text": ordering.text, "power": of_ordering(ordering.pairs, SEEDS, paper)}
            for ordering in paper.orderings
            if any(cell.claim in pair for pair in ordering.pairs)
        ],
        "deviations": [
            {
                "text": str(each),
                "material": each.material,
                "reason": each.reason,
                "evidence": each.evidence,
                "source": recipe.sources.get(each.field) if recipe else None,
            }
            for each in cell.deviations
        ],
        "runs": list(cell.runs),
        "excluded": [{"run": e.run, "error": e.error, "reason": e.reason} for e in cell.excluded],
        "footnotes": {str(c.number): c.text for c in paper.caveats if c.number in cell.caveats},
    }


def _of_runs(of: Comparison, run_ids: Sequence[str]) -> list[dict[str, Any]]:
    """What the manifest says of each run, with its stages as dvc.lock and `dvc status` have them."""
    plan = of.plan
    told = {result.run: table_manifest.run(result, Path()) for result in reversed(of.results) if result.run in run_ids}
    for run_id in run_ids:
        if run_id not in told:
            raise UserError(f"run {run_id} has no evaluation here", f"wrn-pipe repro {run_id}")
    entries, dag = read_lock(), read_dag(plan)
    stale = _stale(dag, list(dict.fromkeys(name for run in told.values() for name in run["stages"])))
    found = []
    for run_id in run_ids:
        if not told[run_id]["stages"]:  # evidence, of which nothing here is an input
            found.append(
                {"run": run_id, **told[run_id], "absent": [], "to_have": None, "lock": {}, "recorded_in": None}
                | {"weights_at": Origin.read(EVIDENCE / run_id / ORIGIN).weights_at}
            )
            continue
        absent = [path for path in told[run_id]["files"] if not Path(path).exists()]
        about = {"run": run_id, **told[run_id], "absent": absent, "to_have": to_have(run_id) if absent else None}
        about["lock"] = {
            name: {
                "outs": {out["path"]: out["md5"] for out in entries.get(name, {}).get("outs", ())},
                "stale": [line for line in stale[name] if not (absent and only_absent([line]))] or None,
                "settings": list(dag[name].params),
                "inputs": list(dag[name].deps),
                "command": dag[name].command,
            }
            for name in about["stages"]
        }
        found.append(about | {"recorded_in": _recorded_in(entries.get(f"train@{run_id}", {}))})
    return found


def _stale(dag: dict[str, Stage], names: Sequence[str]) -> dict[str, list[str]]:
    """Of each of these stages what DVC finds changed; of one that runs right now, that it does."""
    running = running_stages(dag)
    told: dict[str, list[str]] = {}
    for name in names:  # DVC refuses to look at what a running stage writes
        told[name] = [f"{each} runs (process {running[each]})" for each in with_needed(dag, [name]) if each in running]
    return told | ask([dag[name] for name in names if not told[name]], running, wait=True)


def _recorded_in(entry: dict[str, Any]) -> str | None:
    """The newest commit that wrote the md5 of these weights into dvc.lock; None where none has."""
    md5s = [out["md5"] for out in entry.get("outs", ()) if out["path"].endswith(".safetensors")]
    if not md5s:
        return None
    asked = ["git", "log", "-1", "--format=%H", f"-S{md5s[0]}", "--", str(LOCK)]
    return subprocess.run(asked, capture_output=True, text=True, check=False).stdout.strip() or None


def _checkout() -> dict[str, Any]:
    head, dirty = commit()
    return {"commit": head, "dirty": dirty}
