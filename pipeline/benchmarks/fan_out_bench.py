"""`wrn-pipe bench jobs` and `bench driver`: what training many runs at once gains, and what driving them costs."""

import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from math import ceil
from pathlib import Path
from typing import TypeVar

from pipeline.benchmarks.measuring import Spread, spread
from pipeline.benchmarks.workspace import workspace
from pipeline.errors import UserError, WrnPipeError, exit_on_error
from pipeline.params import Plan
from pipeline.runner.dvc import environment
from pipeline.runner.params_file import load

JOB_START_S = 60.0
"""Assumed of a GPU job: a node is given, packages are read from a shared disk, torch.compile compiles."""
STAND_IN = """#!/bin/sh
echo Submitted batch job 1
"""
"""In place of sbatch, which answers in a fraction of a second: what is measured is everything on this side of it."""


@dataclass(frozen=True)
class Slots:
    """A plan of short runs, brought to its tables over so many slots."""

    slots: int
    seconds: Spread
    runs_per_hour: float
    speed_up: float
    """Over the fewest slots that were measured."""


@dataclass(frozen=True)
class Driver:
    """Seconds that one driver spends on its part of many runs."""

    runs: int
    resolve: float
    """What is out of date."""
    submit: float
    """All jobs, without sbatch itself."""
    publish: float
    """Files into their places, and dvc.lock."""
    tables: float
    """The stages behind the runs, by dvc repro."""
    mlflow: float
    """The runs' records, three pictures each. Everything is there without."""

    @property
    def total(self) -> float:
        return self.resolve + self.submit + self.publish + self.tables + self.mlflow


@dataclass(frozen=True)
class Campaign:
    """What so many runs on so many GPUs would take by the model."""

    runs: int
    gpus: int
    hours: float
    efficiency: float
    """GPU-hours of training over those that pass until the tables are there."""


def slots(
    plan: Plan, counts: Sequence[int], runs: int, network: str, epochs: int, repeats: int, say: Callable[[str], None]
) -> list[Slots]:
    """Time `wrn-pipe repro --jobs N` on a plan of `runs` runs, from converted data to tables, for each N in turn."""
    seconds: dict[int, list[float]] = {count: [] for count in counts}
    for repeat in range(repeats):
        for count in counts:
            say(f"round {repeat + 1} of {repeats}: {count} slots")
            with workspace(plan, runs, network, epochs) as root:
                started = time.perf_counter()
                _repro(root, "--jobs", str(count))
                seconds[count].append(time.perf_counter() - started)
    least = min(counts)
    spreads = {count: spread(values) for count, values in seconds.items()}
    return [
        Slots(count, of, 3600 * runs / of.median, spreads[least].median / of.median) for count, of in spreads.items()
    ]


def driver(plan: Plan, runs: int, say: Callable[[str], None]) -> Driver:
    """Time one driver's part of `runs` runs, whose results are copies of those of one finished here.

    Raises UserError where no run is finished here.
    """
    done = [run for run in plan.runs if all((Path(top) / run).is_dir() for top in ("models", "evaluations"))]
    if not done:
        raise UserError("no run is finished here, whose results could be copied", "wrn-pipe repro trains one")
    kept = (Path("models") / done[0], Path("evaluations") / done[0])
    with workspace(plan, runs, plan.runs[done[0]].network, 1, *kept) as root:
        say(f"{runs} runs like {done[0]}")
        words = [sys.executable, "-m", "pipeline.benchmarks.fan_out_bench", done[0]]
        child = subprocess.run(words, cwd=root, env=environment(), stdout=subprocess.PIPE, text=True, check=False)
        if child.returncode:
            raise WrnPipeError(f"driving {runs} runs fails with exit code {child.returncode}", "see what it says above")
        return Driver(**json.loads(child.stdout.splitlines()[-1]))


def model(measured: Driver, run_hours: float, runs: Sequence[int], gpus: Sequence[int]) -> list[Campaign]:
    """Hours until the tables are there: the driver's seconds grow with the runs, a GPU takes one run after another."""
    campaigns = []
    for number in runs:
        for count in gpus:
            waves = ceil(number / count)
            driving = measured.total * number / measured.runs / 3600
            hours = driving + waves * (run_hours + JOB_START_S / 3600)
            campaigns.append(Campaign(number, count, hours, number * run_hours / (count * hours)))
    return campaigns


def _drive(done: str) -> Driver:
    """In a process of its own, since all of it works in the folder where it is started."""
    from pipeline.runner.dag import read_dag
    from pipeline.runner.dvc import repro
    from pipeline.runner.fan_out import publish, stale_runs
    from pipeline.runner.submit import Slurm, Work
    from pipeline.tracking.sync import log_runs

    tools = Path.cwd().parent / "bin"
    tools.mkdir()
    for name in ("sbatch", "srun"):
        (tools / name).write_text(STAND_IN)
        (tools / name).chmod(0o755)
    os.environ["PATH"] = f"{tools}{os.pathsep}{os.environ['PATH']}"

    def resolve() -> tuple[Plan, list[Work]]:
        plan = load()
        stages = read_dag(plan)
        return plan, stale_runs(plan, list(stages), stages)

    (plan, works), resolving = _timed(resolve)
    _, submitting = _timed(lambda: Slurm(minutes=480, max_jobs=256).submit(works, 1))
    models, evaluations = Path("models") / done, Path("evaluations") / done
    for work in works:
        _stand_in(plan, work.run, work.fingerprint, models, evaluations)
    shutil.rmtree(models)
    shutil.rmtree(evaluations)
    _, publishing = _timed(lambda: publish(plan, works))
    code, tabulating = _timed(lambda: repro(plan, []))
    if code:
        raise WrnPipeError(f"dvc repro fails with exit code {code} behind the runs", "see what it says above")
    _, recording = _timed(lambda: log_runs(plan, [work.run for work in works]))
    return Driver(len(works), resolving, submitting, publishing, tabulating, recording)


T = TypeVar("T")


def _timed(action: Callable[[], T]) -> tuple[T, float]:
    """What it returns, and the seconds it took."""
    started = time.perf_counter()
    return action(), time.perf_counter() - started


def _stand_in(plan: Plan, run: str, fingerprint: str, models: Path, evaluations: Path) -> None:
    """The files that a job would have made of a run, under its own name."""
    from pipeline.runner.job import evaluated, trained

    for source, to in ((models, trained(fingerprint)), (evaluations, evaluated(plan, run, fingerprint))):
        shutil.copytree(source, to)
        own = {"run": run, "seed": plan.runs[run].seed, "fingerprint": fingerprint}
        for path in (to / name for name in ("run.json", "metrics.json") if (to / name).is_file()):
            record = json.loads(path.read_text(encoding="utf-8"))
            path.write_text(json.dumps(record | {k: v for k, v in own.items() if k in record}), encoding="utf-8")


def _repro(root: Path, *options: str) -> None:
    words = [sys.executable, "-c", "from pipeline.cli.main import main; main()", "repro", *options]
    done = subprocess.run(words, cwd=root, env=environment(), capture_output=True, text=True, check=False)
    if done.returncode:
        raise WrnPipeError(
            f"wrn-pipe repro {' '.join(options)} fails: {done.stderr.strip().splitlines()[-1]}",
            "try it on the plan that lies here",
        )


if __name__ == "__main__":
    with exit_on_error():
        print(json.dumps(asdict(_drive(sys.argv[1]))))
