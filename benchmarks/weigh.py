"""What a setting of the recipe does to the error: the measurement behind a weight in publication/deviations.yaml.

Trains one network by a protocol of params.yaml and by the same with one field changed, each with the same seeds, in a
clone of this checkout. Prints the errors as CSV, and on stderr the difference of the means with its 95 % interval. It
goes on where it was stopped. `python benchmarks/weigh.py bn_init uniform` takes 30 minutes on two idle cores with
native bfloat16.
"""

import json
import subprocess
import sys
from pathlib import Path

import typer
from ruamel.yaml import YAML
from scipy.stats import ttest_ind

ROOT = Path(__file__).resolve().parents[1]
CLONE = ROOT / "scratch" / "weigh"


def error(run: str) -> float:
    """Test error in percent, trained first where it was not."""
    metrics = CLONE / "evaluations" / run / "metrics.json"
    if not metrics.exists():
        command = [str(Path(sys.executable).with_name("wrn-pipe")), "repro", f"evaluate@{run}"]
        subprocess.run(command, cwd=CLONE, check=True, stdout=sys.stderr)
    found = json.loads(metrics.read_text(encoding="utf-8"))
    return 100 * float(found["errors"]) / float(found["n"])


def main(field: str, value: str, network: str = "WRN-16-1", protocol: str = "fast", seeds: int = 8) -> None:
    if not CLONE.exists():
        subprocess.run(["git", "clone", "-q", str(ROOT), str(CLONE)], check=True)
    yaml = YAML(typ="safe", pure=True)
    params = yaml.load(ROOT / "params.yaml")
    own = params["protocols"][protocol]
    recipes = {str(own[field]): own, value: {**own, field: yaml.load(value)}}
    params |= {"protocols": {}, "runs": {}, "tables": []}
    run_ids: dict[str, list[str]] = {}
    """Value of the field -> its runs in the clone's params.yaml, by seed."""
    for i, (name, recipe) in enumerate(recipes.items()):
        params["protocols"][f"{protocol}-{i}"] = recipe
        run = {"dataset": "cifar10", "representation": "rgb", "network": network, "protocol": f"{protocol}-{i}"}
        runs = {f"{protocol}-{i}-s{seed}": {**run, "seed": seed} for seed in range(1, seeds + 1)}
        params["runs"] |= runs
        run_ids[name] = list(runs)
    YAML().dump(params, CLONE / "params.yaml")
    errors = {name: [error(run) for run in ids] for name, ids in run_ids.items()}
    print("field,value,network,protocol,seed,top1_error")
    for name, found in errors.items():
        for seed, percent in enumerate(found, 1):
            print(field, name, network, protocol, seed, f"{percent:.2f}", sep=",")
    before, after = errors.values()
    low, high = ttest_ind(after, before, equal_var=False).confidence_interval()  # Welch's
    print(f"{' to '.join(errors)}: {(low + high) / 2:+.2f} +- {(high - low) / 2:.2f} points", file=sys.stderr)


if __name__ == "__main__":
    typer.run(main)
