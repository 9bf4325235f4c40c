"""results/manifest.json: for every cell of the tables, what it claims, what we found, and every file behind it.

It is an output of DVC that git tracks, so it holds what its inputs determine and nothing else. Not the commit, since
committing it makes a new one, nor dvc.lock's entries, which DVC writes after the stage has ended: `wrn-pipe show`,
`explain` and `bundle` tell those.
"""

import json
from pathlib import Path
from typing import Any

from pipeline.artifacts import read_record
from pipeline.comparison.cells import planned
from pipeline.comparison.formats.tabular import render_json
from pipeline.comparison.results import Result, load_results
from pipeline.comparison.tables import Table, table
from pipeline.params import Plan
from pipeline.publication.paper import Paper


def manifest(paper: Paper, plan: Plan, root: Path) -> dict[str, Any]:
    """The tables of the plan, cell by cell with verdicts as the comparison has them, and the runs behind them.

    Reads evaluations/ and evidence/ below `root` only, so it can be made again where weights and data are not.
    Raises UserError that names the file when an evaluation is broken.
    """
    of = planned(paper, plan, load_results(root))
    tables = [table(name, of) for name in plan.tables]
    return {
        "paper": {key: getattr(paper, key) for key in ("title", "authors", "venue", "version", "url")},
        "tables": {each.name: _table(each) for each in tables},
        "runs": {result.run: run(result, root) for result in reversed(of.results)},
    }


def _table(made: Table) -> dict[str, Any]:
    (told,) = json.loads(render_json([made]))
    for cell, entry in zip(made.cells, told["cells"], strict=True):
        entry["claim"] = cell.claim.id if cell.claim else None
        ours = [run.run for run in cell.shown if run.result.commit is None]
        entry["command"] = f"wrn-pipe repro {' '.join(ours)}" if ours else None
    return {"title": told["title"], "cells": told["cells"], "footnotes": told["footnotes"]}


def repeated_by(result: Result) -> str:
    """The commands that train a run again."""
    if result.commit:
        return f"git checkout {result.commit} && wrn-pipe repro {result.run}"
    return f"wrn-pipe repro train@{result.run} evaluate@{result.run}"


def run(result: Result, root: Path) -> dict[str, Any]:
    """What stands behind a result: settings, machine, metrics, digests. Raises UserError as `manifest` does."""
    folder = root / result.folder
    again = f"wrn-pipe repro evaluate@{result.run}"
    told = ("network", "dataset", "representation", "seed", "parameters", "fingerprint", "loader", "kernels")
    asked = (*told, "protocol_name", "protocol", "devices", "unrepeatable_kernels", "versions")
    record = read_record(folder / "run.json", again, *asked)
    digests = read_record(folder / "digests.json", again, "data", "files", "device")
    return {
        **{key: record[key] for key in told},
        "protocol": record["protocol_name"],
        "settings": record["protocol"],
        "devices": record["devices"],
        "unrepeatable_kernels": record["unrepeatable_kernels"],
        "versions": record["versions"],
        "metrics": read_record(folder / "metrics.json", again),
        **{"data": digests["data"], "files": digests["files"], "evaluated_on": digests["device"]},
        "origin": result.origin,
        "command": repeated_by(result),
        "stages": []
        if result.commit
        else [
            *(f"download@{result.record.dataset}", f"convert@{result.record.dataset}-{result.record.representation}"),
            *(f"train@{result.run}", f"evaluate@{result.run}"),
        ],
    }
