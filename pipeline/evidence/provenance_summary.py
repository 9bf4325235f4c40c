"""Where a number comes from and what would change it, from files, dvc.lock, DVC and git: plain values, for JSON, and
those in words, for a terminal; and which numbers wait for more runs.

What belongs to the checkout and not to the result stands here, not in results/manifest.json, which says why.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from pipeline.artifacts import EVIDENCE, ORIGIN, Origin
from pipeline.comparison.cells import Cell, Comparison, planned, runs_wanted
from pipeline.comparison.formats import environment, wrapped
from pipeline.comparison.formats.cell_text import MEANINGS
from pipeline.comparison.formats.tabular import as_object
from pipeline.comparison.orderings import SEEDS
from pipeline.comparison.results import load_results
from pipeline.comparison.statistical_power import of_claim, of_ordering
from pipeline.comparison.tables import table
from pipeline.comparison.training_cost import training_cost
from pipeline.comparison.verdict_rule import Verdict
from pipeline.dvc_lock import LOCK
from pipeline.dvc_lock import read as read_lock
from pipeline.errors import UserError
from pipeline.evidence import table_manifest
from pipeline.params import Plan
from pipeline.provenance import commit, git
from pipeline.publication.claims import STATISTIC, canonical
from pipeline.publication.paper import Paper
from pipeline.runner.dag import Stage, read_dag, with_needed
from pipeline.runner.dvc import ask, only_absent, running_stages, to_have


def of_run(paper: Paper, plan: Plan, run_id: str) -> dict[str, Any]:
    """Where the number of one run comes from. Raises UserError for one that is not evaluated, or unknown."""
    of = planned(paper, plan, load_results(Path()))
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
    of = planned(paper, plan, load_results(Path()))
    cells = [
        cell
        for cell in table(name, of).cells
        if canonical(cell.model) == canonical(row) and dataset in (None, cell.dataset)
    ]
    runs = list(dict.fromkeys(run for cell in cells for run in cell.runs))
    told = [_of_cell(cell, of) for cell in cells]
    return {"cells": told, "runs": _of_runs(of, runs), "checkout": _checkout()}


@dataclass(frozen=True)
class OpenCell:
    """A number of the paper whose next look needs more seeds."""

    table: str
    network: str
    dataset: str
    printed: str
    seeds: int
    """That count already."""
    next_look: int
    """Seeds at which a verdict is given next."""
    cpu_hours: float
    """Of all seeds that are missing, on 2 CPU cores."""
    gpu_hours: float


def open_cells(of: Comparison, tables: Sequence[str]) -> list[OpenCell]:
    """Of these tables, the cheapest first; what two tables print is named once."""
    found: dict[tuple[str, str, str], OpenCell] = {}
    for cell in (cell for name in tables for cell in table(name, of).cells):
        claim, missing = cell.claim, runs_wanted(cell, of.paper)
        recipe = of.paper.protocol_of(claim) if claim else None
        if claim and recipe and missing:
            cost = training_cost(claim.network, of.paper.images(cell.dataset, "train"), recipe.protocol) * missing
            place, seeds = (cell.table, cell.model, cell.dataset, claim.text), _counted(cell)
            open_cell = OpenCell(*place, seeds, seeds + missing, cost.cpu_hours, cost.gpu_hours)
            found.setdefault((claim.network, cell.dataset, recipe.name), open_cell)
    return sorted(found.values(), key=lambda cell: cell.cpu_hours)


def seeds_to_plan(cell: Cell, paper: Paper) -> int:
    """How many seeds of a network `wrn-pipe plan` should know, for a cell that waits for runs."""
    return max(SEEDS, (runs_wanted(cell, paper) or 0) + _counted(cell))


def _counted(cell: Cell) -> int:
    """The seeds behind a verdict that more of them can change."""
    return cell.ours.n if cell.ours and cell.verdict is Verdict.INCONCLUSIVE else 0


def _of_cell(cell: Cell, of: Comparison) -> dict[str, Any]:
    """What the paper prints, where and by what protocol; what we have, and what the two add up to."""
    paper, claim, wanted = of.paper, cell.claim, runs_wanted(cell, of.paper)
    recipe = paper.protocol_of(claim) if claim else None
    seeds = seeds_to_plan(cell, paper) if wanted else None
    outlook = of_claim(claim, of.plan, seeds, paper) if claim and seeds else None
    return {
        **as_object(cell),
        "table": cell.table,
        "title": paper.tables[cell.table],
        "claim": claim.id if claim else None,
        "protocol": recipe.name if recipe else None,
        "mean": cell.ours.mean if cell.ours else None,
        "median": cell.ours.median if cell.ours else None,
        "runs_wanted": wanted,
        "seeds_to_plan": seeds,
        "outlook": {**asdict(outlook), "text": str(outlook)} if outlook else None,
        "orderings": [
            {"text": ordering.text, "power": of_ordering(ordering.pairs, SEEDS, paper)}
            for ordering in paper.orderings
            if any(claim in pair for pair in ordering.pairs)
        ],
        "deviations": [
            {**asdict(each), "text": str(each), "source": recipe.sources.get(each.field) if recipe else None}
            for each in cell.deviations
        ],
        "footnotes": {str(c.number): c.text for c in paper.caveats if c.number in cell.caveats},
    }


def _of_runs(of: Comparison, run_ids: Sequence[str]) -> list[dict[str, Any]]:
    """What the manifest says of each run, with its stages as dvc.lock and `dvc status` have them."""
    results = {result.run: result for result in reversed(of.results)}
    for run_id in run_ids:
        if run_id not in results:
            of.plan.run(run_id)
            raise UserError(f"run {run_id} has no evaluation here", f"wrn-pipe repro {run_id}")
    found = [{"run": run_id, **table_manifest.run(results[run_id], Path())} for run_id in run_ids]
    entries, dag = read_lock(), read_dag(of.plan)
    stale = _stale(dag, list(dict.fromkeys(name for told in found for name in told["stages"])))
    for told in found:
        run_id = told["run"]
        told |= {"absent": [], "to_have": None, "lock": {}, "recorded_in": None}
        if not told["stages"]:  # evidence, of which nothing here is an input
            told["weights_at"] = Origin.read(EVIDENCE / run_id / ORIGIN).weights_at
            continue
        if absent := [path for path in told["files"] if not Path(path).exists()]:
            told |= {"absent": absent, "to_have": to_have(run_id)}
        told["recorded_in"] = _recorded_in(entries.get(f"train@{run_id}", {}))
        for name in told["stages"]:
            told["lock"][name] = {
                "outs": {out["path"]: out["md5"] for out in entries.get(name, {}).get("outs", ())},
                "stale": [line for line in stale[name] if not (absent and only_absent([line]))] or None,
                "settings": list(dag[name].params),
                "inputs": list(dag[name].deps),
                "command": dag[name].command,
            }
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
    return git("log", "-1", "--format=%H", f"-S{md5s[0]}", "--", str(LOCK)).strip() or None


def _checkout() -> dict[str, Any]:
    head, dirty = commit()
    return {"commit": head, "dirty": dirty}


def as_text(summary: dict[str, Any], paper: Paper) -> str:
    """What `of_run` or `of_claims` found, for a terminal."""
    page = environment("text", Path(__file__).parent).get_template("provenance.txt.jinja")
    known = {"meanings": MEANINGS, "seeds": SEEDS, "inputs_of": _inputs_of, "words": STATISTIC}
    return wrapped(page.render(summary=summary, paper=paper, **known), 100)


def _inputs_of(told: dict[str, Any]) -> dict[str, list[str]]:
    """What would make a run's number another one."""
    used = [entry for name, entry in told["lock"].items() if name.startswith(("train@", "evaluate@"))]
    settings, inputs = (
        list(dict.fromkeys(each for entry in used for each in entry[key])) for key in ("settings", "inputs")
    )
    code = [path for path in inputs if path.startswith(("pipeline/", "stages/"))]
    others = [path for path in inputs if path not in code and not path.startswith(("models/", "evaluations/"))]
    return {"settings": settings, "code": code, "others": others}
