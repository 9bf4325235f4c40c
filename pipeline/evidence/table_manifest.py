"""results/manifest.json: for every cell of the tables, what it claims, what we found, and every file behind it.

It is an output of DVC that git tracks, so it holds what its inputs determine and nothing else. Not the commit, since
committing it makes a new one, nor dvc.lock's entries, which DVC writes after the stage has ended: `wrn-pipe show`,
`explain` and `bundle` tell those.
"""

from pathlib import Path
from typing import Any

from pipeline.artifacts import DIGESTS, Digests
from pipeline.comparison.cells import Comparison
from pipeline.comparison.formats.tabular import as_object
from pipeline.comparison.results import Result
from pipeline.comparison.tables import Table, table


def manifest(of: Comparison, root: Path) -> dict[str, Any]:
    """The tables of the plan, cell by cell with verdicts as the comparison has them, and the runs behind them.

    Reads evaluations/ and evidence/ below `root` only, so it can be made again where weights and data are not.
    Raises UserError that names the file when an evaluation is broken.
    """
    tables = [table(name, of) for name in of.plan.tables]
    return {
        "paper": {key: getattr(of.paper, key) for key in ("title", "authors", "venue", "version", "url")},
        "tables": {each.name: _table(each) for each in tables},
        "runs": {result.run: run(result, root) for result in reversed(of.results)},
    }


def _table(made: Table) -> dict[str, Any]:
    cells = []
    for cell in made.cells:
        ours = [run.run for run in cell.shown if run.result.commit is None]
        command = f"wrn-pipe repro {' '.join(ours)}" if ours else None
        cells.append({**as_object(cell), "claim": cell.claim and cell.claim.id, "command": command})
    footnotes = {str(caveat.number): caveat.text for caveat in made.caveats}
    return {"title": made.title, "cells": cells, "footnotes": footnotes}


def run(result: Result, root: Path) -> dict[str, Any]:
    """What stands behind a result: settings, machine, metrics, digests. Raises UserError as `manifest` does."""
    name, record = result.run, result.record.model_dump(mode="json")
    digests = Digests.read(root / result.folder / DIGESTS, f"wrn-pipe repro evaluate@{name}")
    told = ("network", "dataset", "representation", "seed", "parameters", "fingerprint", "loader", "kernels")
    stages = [f"train@{name}", f"evaluate@{name}"]
    again, data = f"wrn-pipe repro {' '.join(stages)}", f"{record['dataset']}-{record['representation']}"
    if result.commit:
        again = f"git checkout {result.commit} && wrn-pipe repro {name}"
    return {
        **{key: record[key] for key in (*told, "devices", "unrepeatable_kernels", "versions")},
        "protocol": record["protocol_name"],
        "settings": record["protocol"],
        "metrics": result.metrics.model_dump(exclude_unset=True),
        **{"data": digests.data, "files": digests.files, "evaluated_on": digests.device},
        "origin": result.origin,
        "command": again,
        "stages": [] if result.commit else [f"download@{record['dataset']}", f"convert@{data}", *stages],
    }
