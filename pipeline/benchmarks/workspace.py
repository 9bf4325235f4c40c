"""A copy of this checkout to measure in: its code and data, another plan, and nothing of it comes back."""

import json
import shutil
import subprocess
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from pipeline.dvc_lock import read
from pipeline.errors import UserError
from pipeline.params import PARAMS, Plan
from pipeline.runner.dvc import command, environment

DATASET, REPRESENTATION = "cifar10", "cifar10-rgb"


@contextmanager
def workspace(plan: Plan, runs: int, network: str, epochs: int, *results: Path) -> Iterator[Path]:
    """A repository with `runs` runs of `network` on CIFAR-10 that differ in their seed, by `quick` in so many epochs.

    It takes data from this checkout's DVC cache, and copies the folders `results`. Deleted at the end of the block.
    Raises UserError where CIFAR-10 is not converted here.
    """
    ours = read()
    needed = [f"download@{DATASET}", f"convert@{REPRESENTATION}"]
    if missing := [name for name in needed if name not in ours]:
        raise UserError(f"{missing[0]} has not run here", f"wrn-pipe repro {needed[-1]}")
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder) / "wrn-pipe"
        for name in _output("git", "ls-files", "--cached", "--others", "--exclude-standard", "-z").split("\0"):
            if name and Path(name).is_file():
                (root / name).parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(name, root / name)
        for made in results:
            shutil.copytree(made, root / made)
        (root / PARAMS).write_text(_params(plan, runs, network, epochs), encoding="utf-8")
        _output("git", "init", "-q", "-b", "main", cwd=root)
        _output("git", "add", "-A", cwd=root)
        _output("git", "-c", "user.name=b", "-c", "user.email=b@example.org", "commit", "-q", "-m", "b", cwd=root)
        cache = _output(*command("cache", "dir")).strip()
        _output(*command("config", "--local", "cache.dir", cache), cwd=root)
        _output(*command("checkout", *needed), cwd=root)
        yield root


def _params(plan: Plan, runs: int, network: str, epochs: int) -> str:
    settings: dict[str, Any] = plan.model_dump(mode="json", exclude_none=True)
    protocol = {**settings["protocols"]["quick"], "epochs": epochs}
    run: Mapping[str, Any] = {"dataset": DATASET, "representation": "rgb", "network": network, "protocol": "quick"}
    settings |= {
        "datasets": {DATASET: settings["datasets"][DATASET]},
        "representations": {REPRESENTATION: settings["representations"][REPRESENTATION]},
        "protocols": {"quick": protocol},
        "runs": {f"bench-s{seed}": {**run, "seed": seed} for seed in range(1, runs + 1)},
        "tables": ["4"],
    }
    settings["comparison"]["margins"] = {
        name: margin for name, margin in settings["comparison"]["margins"].items() if name == DATASET
    }
    return json.dumps(settings, indent=2)  # which is YAML


def _output(*words: str, cwd: Path | None = None) -> str:
    done = subprocess.run(words, cwd=cwd, capture_output=True, text=True, env=environment(), check=False)
    if done.returncode:
        said = (done.stderr.strip() or done.stdout.strip()).splitlines() or [f"exit code {done.returncode}"]
        raise UserError(f"{words[0]} fails in the copy to measure in: {said[-1]}", "wrn-pipe doctor says what is wrong")
    return done.stdout
