"""summarize: evaluations/*/ -> results/runs.csv, one row a run of the plan."""

import csv
import io
from pathlib import Path

from pipeline.artifacts import EVALUATIONS, METRICS, RECORD, Evaluation, RunRecord
from pipeline.atomic_write import new_file
from pipeline.comparison.results import planned_results
from pipeline.errors import UserError
from pipeline.runner.params_file import load
from pipeline.runner.stage_entry import run_stage

COLUMNS = (
    *("run", "dataset", "network", "protocol", "seed", "parameters", "top1_error", "standard_error"),
    *("negative_log_likelihood", "n", "fingerprint"),
    *("device", "processor", "capability", "threads", "loader", "kernels", "torch"),
)


def main() -> None:
    """Write what every run of params.yaml gave, and on what. Raises UserError for one that is not finished."""
    plan = load()
    finished = {result.run for result in planned_results(plan, Path())}
    text = io.StringIO()
    writer = csv.DictWriter(text, COLUMNS, lineterminator="\n")
    writer.writeheader()
    for run_id in plan.runs:
        if run_id not in finished:
            raise UserError(f"run {run_id} has no evaluation here", f"wrn-pipe repro {run_id}")
        writer.writerow(row(run_id))
    new_file(Path("results/runs.csv"), text.getvalue().encode())


def row(run_id: str) -> dict[str, object]:
    """The line of a finished run. Raises UserError for a file that lacks what only this table needs."""
    folder = EVALUATIONS / run_id
    record = RunRecord.read(folder / RECORD)
    found = {
        **Evaluation.read(folder / METRICS).model_dump(),
        **record.model_dump(include={"seed", "parameters", "fingerprint", "loader", "kernels"}),
        "protocol": record.protocol_name,
        "device": record.device.get("type"),
        "processor": record.device.get("name"),
        "capability": record.device.get("capability", ""),
        "threads": record.device.get("threads"),
        "torch": record.versions.get("torch"),
    }
    if missing := [key for key in COLUMNS if found.get(key) is None]:
        what = f"{folder} does not say {', '.join(missing)}"
        raise UserError(what, f"it is written by: wrn-pipe repro evaluate@{run_id}")
    return {key: found[key] for key in COLUMNS}


if __name__ == "__main__":
    run_stage(main)
