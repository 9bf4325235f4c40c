"""summarize: evaluations/*/ -> results/runs.csv, one row a run of the plan."""

import csv
import io
from pathlib import Path

from pipeline.atomic_write import new_file
from pipeline.comparison.results import planned_results
from pipeline.errors import UserError
from pipeline.runner.attempts import run_stage
from pipeline.runner.params_file import load

COLUMNS = (
    *("run", "dataset", "network", "protocol", "seed", "parameters", "top1_error", "standard_error"),
    *("negative_log_likelihood", "n", "fingerprint"),
    *("device", "processor", "capability", "threads", "loader", "kernels", "torch"),
)


def main() -> None:
    """Write what every run of params.yaml gave, and on what. Raises UserError for one that is not finished."""
    plan = load()
    finished = {result.run: result for result in planned_results(plan, Path())}
    text = io.StringIO()
    writer = csv.DictWriter(text, COLUMNS, extrasaction="ignore", lineterminator="\n")
    writer.writeheader()
    for run_id in plan.runs:
        if run_id not in finished:
            raise UserError(f"run {run_id} has no evaluation here", f"wrn-pipe repro {run_id}")
        record = finished[run_id].record
        told = {"capability": ""} | record.device | record.model_dump(exclude={"protocol", "device"})
        told |= finished[run_id].metrics.model_dump()
        told |= {"protocol": record.protocol_name, "torch": record.versions["torch"]}
        writer.writerow(told | {"device": record.device["type"], "processor": record.device["name"]})
    new_file(Path("results/runs.csv"), text.getvalue().encode())


if __name__ == "__main__":
    run_stage(main)
