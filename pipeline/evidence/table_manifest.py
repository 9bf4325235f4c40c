"""results/manifest.json: for every cell of the tables, what it claims, what we found, and every file behind it.

It is an output of DVC that git tracks, so it holds what its inputs determine and nothing else. Two things that belong
to a number's story are therefore not in it, and are read where they are told (`wrn-pipe show`, `explain`, `bundle`):

- The commit and whether the checkout was clean. Committing the manifest makes a new commit, so a manifest that names
  its commit would always be wrong by one. git itself knows in which commit dvc.lock first named these weights; MLflow
  has the commit at which the training ran as a tag.
- The entries of dvc.lock. DVC writes the lock after the stage has ended, the manifest's own entry among them. The
  manifest names the stages, and has the sha256 of every file that their entries have by md5.
"""

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

from pipeline.comparison.formats.tabular import render_json
from pipeline.comparison.results import Result, load_results
from pipeline.comparison.tables import Table, table
from pipeline.errors import UserError
from pipeline.params import Plan
from pipeline.publication.paper import PAPER


def manifest(plan: Plan, root: Path) -> dict[str, Any]:
    """The tables of the plan, cell by cell with verdicts as the comparison has them, and the runs behind them.

    Reads evaluations/ below `root` only, so it can be made again where weights and data are not.
    Raises UserError that names the file when an evaluation is broken.
    """
    results = [result for result in load_results(root) if result.run in plan.runs]
    tables = [table(plan, name, results) for name in plan.tables]
    return {
        "paper": asdict(PAPER),
        "tables": {each.name: _table(each) for each in tables},
        "runs": {result.run: run(plan, result, root) for result in results},
    }


def _table(made: Table) -> dict[str, Any]:
    (told,) = json.loads(render_json([made]))
    for cell, entry in zip(made.cells, told["cells"], strict=True):
        entry["claim"] = cell.claim.id if cell.claim else None
        entry["command"] = f"wrn-pipe repro {' '.join(cell.runs)}" if cell.runs else None
    return {"title": told["title"], "cells": told["cells"], "footnotes": told["footnotes"]}


def run(plan: Plan, result: Result, root: Path) -> dict[str, Any]:
    """What stands behind a result: settings, machine, metrics, digests. Raises UserError as `manifest` does."""
    planned, folder = plan.run(result.run), root / "evaluations" / result.run
    record = json.loads((folder / "run.json").read_text(encoding="utf-8"))
    representation = f"{planned.dataset}-{planned.representation}"
    told = ("network", "dataset", "representation", "seed", "parameters", "fingerprint", "loader", "kernels")
    return {
        **{key: record[key] for key in told},
        "protocol": record["protocol_name"],
        "settings": record["protocol"],
        "devices": record["devices"],
        "unrepeatable_kernels": record["unrepeatable_kernels"],
        "versions": record["versions"],
        "metrics": json.loads((folder / "metrics.json").read_text(encoding="utf-8")),
        **_digests(folder / "digests.json", result.run),
        "command": f"wrn-pipe repro train@{result.run} evaluate@{result.run}",
        "stages": [
            *(f"download@{planned.dataset}", f"convert@{representation}"),
            *(f"train@{result.run}", f"evaluate@{result.run}"),
        ],
    }


def _digests(path: Path, run: str) -> dict[str, Any]:
    try:
        told = json.loads(path.read_text(encoding="utf-8"))
        return {"data": told["data"], "files": told["files"], "evaluated_on": told["device"]}
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(f"{path}: {error!r}", f"it is written by: wrn-pipe repro evaluate@{run}") from None
