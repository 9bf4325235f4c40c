"""summarize: evaluations/*/ -> results/runs.csv, one row a run of the plan."""

import csv
import json
from pathlib import Path

from pipeline.errors import run_stage
from pipeline.params import load

COLUMNS = (
    *("run", "dataset", "network", "protocol", "seed", "parameters", "top1_error", "standard_error"),
    *("negative_log_likelihood", "n", "fingerprint"),
    *("device", "processor", "capability", "threads", "loader", "kernels", "torch"),
)


def main() -> None:
    """Write what every finished run of params.yaml gave, and on what."""
    to = Path("results/runs.csv")
    to.parent.mkdir(exist_ok=True)
    with to.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, COLUMNS, lineterminator="\n")
        writer.writeheader()
        for run_id in load().runs:
            writer.writerow(row(Path("evaluations") / run_id))


def row(folder: Path) -> dict[str, object]:
    """The line of one evaluations/<run> folder."""
    values, record = (json.loads((folder / name).read_text(encoding="utf-8")) for name in ("metrics.json", "run.json"))
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


if __name__ == "__main__":
    run_stage(main)
