"""summarize: evaluations/*/ -> results/runs.csv, one row a run of the plan."""

import csv
import io
import json
from pathlib import Path

from pipeline.comparison.results import planned_results
from pipeline.errors import UserError
from pipeline.publish import new_file
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
    folder = Path("evaluations") / run_id
    values, record = (json.loads((folder / name).read_text(encoding="utf-8")) for name in ("metrics.json", "run.json"))
    try:
        device = record["device"]
        found = {
            **values,
            **{key: record[key] for key in ("seed", "parameters", "fingerprint", "loader", "kernels")},
            "protocol": record["protocol_name"],
            "device": device["type"],
            "processor": device["name"],
            "capability": device.get("capability", ""),
            "threads": device["threads"],
            "torch": record["versions"]["torch"],
        }
        return {key: found[key] for key in COLUMNS}
    except KeyError as error:
        raise UserError(
            f"{folder} does not say {error}", f"it is written by: wrn-pipe repro evaluate@{run_id}"
        ) from None


if __name__ == "__main__":
    run_stage(main)
