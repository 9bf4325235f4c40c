"""Seconds that the driver of `wrn-pipe repro --jobs` or `--slurm` spends itself on many runs.

In a copy of this checkout, with the results of one finished run as everybody's. docs/how-to/many-runs.md has what was
measured.
"""

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

from ruamel.yaml import YAML

from pipeline.params import Plan
from pipeline.publication.wide_resnet import PAPER
from pipeline.runner.dag import read_dag
from pipeline.runner.dvc import command, environment, repro
from pipeline.runner.job import evaluated, trained
from pipeline.runner.job_driver import publish, stale_runs
from pipeline.runner.params_file import load
from pipeline.tracking.sync import log_runs

T = TypeVar("T")
ROWS: list[str] = []


def output(*words: str, cwd: Path | None = None) -> str:
    return subprocess.run(words, cwd=cwd, env=environment(), check=True, stdout=subprocess.PIPE, text=True).stdout


def copy(root: Path, done: str, runs: int) -> None:
    """A repository with `runs` runs like `done`, with data from this checkout's DVC cache and the results of `done`."""
    for name in filter(None, output("git", "ls-files", "-z").split("\0")):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(name, root / name)
    for folder in ("models", "evaluations"):
        shutil.copytree(Path(folder) / done, root / folder / done)
    params: dict[str, Any] = YAML(typ="safe", pure=True).load(Path("params.yaml"))
    like = params["runs"][done]
    params["runs"] = {f"bench-s{seed}": {**like, "seed": seed} for seed in range(1, runs + 1)}
    (root / "params.yaml").write_text(json.dumps(params))  # which is YAML
    git = ("git", "-c", "user.name=b", "-c", "user.email=b@example.org")
    for words in (("init", "-q", "-b", "main"), ("add", "-A"), ("commit", "-q", "-m", "b")):
        output(*git, *words, cwd=root)
    output(*command("config", "--local", "cache.dir", output(*command("cache", "dir")).strip()), cwd=root)
    kind = like["representation"]
    output(*command("checkout", f"download@{like['dataset']}", f"convert@{like['dataset']}-{kind}"), cwd=root)


def stand_in(plan: Plan, run: str, fingerprint: str, done: str) -> None:
    """The files that a job would have made of a run, under its own name."""
    for top, to in (("models", trained(fingerprint)), ("evaluations", evaluated(plan, run, fingerprint))):
        shutil.copytree(Path(top) / done, to)
        for path in (to / name for name in ("run.json", "metrics.json") if (to / name).is_file()):
            record = json.loads(path.read_text())
            own = {"run": run, "seed": plan.runs[run].seed, "fingerprint": fingerprint}
            path.write_text(json.dumps(record | {k: v for k, v in own.items() if k in record}))


def timed(what: str, action: Callable[[], T]) -> T:
    started = time.perf_counter()
    result = action()
    ROWS.append(f"| {what} | {time.perf_counter() - started:.1f} |")
    return result


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=1000)
    options = parser.parse_args()
    done = next((run for run in load().runs if Path("models", run).is_dir() and Path("evaluations", run).is_dir()), "")
    if not done:
        sys.exit("no run is finished here, whose results could be copied; wrn-pipe repro trains one")
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder) / "wrn-pipe"
        copy(root, done, options.runs)
        os.chdir(root)
        plan = load()
        stages = read_dag(plan)
        works = timed("resolve: what is out of date", lambda: stale_runs(plan, list(stages), stages))
        for work in works:
            stand_in(plan, work.run, work.fingerprint, done)
        shutil.rmtree("models")
        shutil.rmtree("evaluations")
        timed("publish: files into their places, `dvc.lock`", lambda: publish(plan, works))
        if timed("tables and report, by `dvc repro`", lambda: repro(plan, [])):
            sys.exit("dvc repro fails, see above")
        timed("records in MLflow", lambda: log_runs(PAPER, plan, [work.run for work in works]))
        os.chdir("/")
    print("\n".join([f"| part of the driver, {options.runs} runs | seconds |", "| --- | --- |", *ROWS]))


if __name__ == "__main__":
    main()
