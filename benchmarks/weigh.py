"""What a setting of the recipe does to the error: the measurement behind a weight in publication/deviations.yaml.

Trains one network by a protocol of params.yaml and by the same with one field changed, each with the same seeds, in a
clone of this checkout. Prints the errors as CSV, and on stderr the difference of the means with its 95 % interval. It
goes on where it was stopped. `python benchmarks/weigh.py bn_init uniform` takes 30 minutes on two idle cores with
native bfloat16.
"""

import argparse
import csv
import json
import subprocess
import sys
from pathlib import Path

from ruamel.yaml import YAML
from scipy.stats import ttest_ind

ROOT = Path(__file__).resolve().parents[1]


def plan(folder: Path, network: str, protocol: str, field: str, value: str, seeds: int) -> dict[str, list[str]]:
    """Write the clone's params.yaml. Returns value of the field -> run ids, by seed."""
    params = YAML(typ="safe", pure=True).load(ROOT / "params.yaml")
    own = params["protocols"][protocol]
    values = {str(own[field]): own, value: {**own, field: YAML(typ="safe", pure=True).load(value)}}
    params["protocols"] = {f"{protocol}-{i}": recipe for i, recipe in enumerate(values.values())}
    runs = {name: [f"{protocol}-{i}-s{s}" for s in range(1, seeds + 1)] for i, name in enumerate(values)}
    common = {"dataset": "cifar10", "representation": "rgb", "network": network}
    params["runs"] = {
        run: {**common, "protocol": run.rpartition("-s")[0], "seed": seed}
        for ids in runs.values()
        for seed, run in enumerate(ids, 1)
    }
    YAML().dump({**params, "tables": []}, folder / "params.yaml")
    return runs


def error(folder: Path, run: str) -> float:
    """Test error in percent, trained first where it was not."""
    metrics = folder / "evaluations" / run / "metrics.json"
    if not metrics.exists():
        command = [str(Path(sys.executable).with_name("wrn-pipe")), "repro", f"evaluate@{run}"]
        subprocess.run(command, cwd=folder, check=True, stdout=sys.stderr)
    found = json.loads(metrics.read_text(encoding="utf-8"))
    return 100 * float(found["errors"]) / float(found["n"])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("field")
    parser.add_argument("value")
    parser.add_argument("--network", default="WRN-16-1")
    parser.add_argument("--protocol", default="fast")
    parser.add_argument("--seeds", type=int, default=8)
    parser.add_argument("--folder", type=Path, default=ROOT / "scratch" / "weigh", help="of the clone")
    given = parser.parse_args()
    folder = given.folder.resolve()
    if not folder.exists():
        subprocess.run(["git", "clone", "-q", str(ROOT), str(folder)], check=True)
    runs = plan(folder, given.network, given.protocol, given.field, given.value, given.seeds)
    errors: dict[str, list[float]] = {name: [] for name in runs}
    for seed in range(given.seeds):
        for name, ids in runs.items():
            errors[name].append(error(folder, ids[seed]))
    table = csv.writer(sys.stdout, lineterminator="\n")
    table.writerow(["field", "value", "network", "protocol", "seed", "top1_error"])
    for name, found in errors.items():
        for seed, value in enumerate(found, 1):
            table.writerow([given.field, name, given.network, given.protocol, seed, f"{value:.2f}"])
    before, after = errors.values()
    low, high = ttest_ind(after, before, equal_var=False).confidence_interval()  # Welch's
    print(f"{' to '.join(errors)}: {(low + high) / 2:+.2f} +- {(high - low) / 2:.2f} points", file=sys.stderr)


if __name__ == "__main__":
    main()
