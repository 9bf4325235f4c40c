"""Everything that `wrn-pipe verify` looks at, in one order: the lock, the data, the results, each run."""

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from pipeline.artifacts import EVIDENCE, ORIGIN, runs_in_evidence
from pipeline.dvc_lock import LOCK
from pipeline.dvc_lock import read as read_lock
from pipeline.errors import UserError
from pipeline.evidence import data_check, lock_check, regenerate, run_check
from pipeline.evidence.findings import Finding, unchecked, wrong
from pipeline.params import PARAMS, Plan
from pipeline.runner.dag import DAG, Stage, stages
from pipeline.runner.running_stages import running_stages

RESULTS = Path("results")
OWN = RESULTS / "fast"
"""Of trainings outside the plan, see docs/reference/fast.md."""


class Depth(NamedTuple):
    """How much of the runs is computed again, beyond what takes seconds."""

    deep: bool = False
    """Predictions, from weights."""
    deeper: str | None = None
    """Of this run of the plan the weights, from nothing."""
    epochs: int | None = None
    """Of that training; None: all."""


SHALLOW = Depth()


def verify(
    plan: Plan, run: regenerate.Run, depth: Depth = SHALLOW, *, data: bool = True, other_code: str = ""
) -> Iterator[Finding]:
    """Findings on the repository in the current folder, with `run` to run a stage's command.

    Computed again: the md5 of every file that dvc.lock names; digests of the data's decoded content; every result that
    git keeps, by its own stage; and of every run what `runs` does. `data` false leaves out what reads the datasets,
    which may be large. `other_code`: as regenerate has it.
    """
    root = Path.cwd()
    disk, dag = lock_check.Disk(root), stages(root)
    locked: dict[str, Any] = {}
    for name, pid in running_stages({stage.name: stage for stage in dag}).items():
        yield unchecked(DAG, f"{name} runs (process {pid}): what it writes, and all that needs it, is about to change")
    try:
        locked = read_lock(root)
        yield from lock_check.check(disk, dag, locked, data=data)
    except UserError as error:
        yield wrong(LOCK, error.what, error.remedy)
    else:
        if not LOCK.is_file():
            yield wrong(LOCK, "not found", f"git checkout {LOCK}, or wrn-pipe repro")
    if data:
        for name in plan.datasets:
            yield from data_check.content(name, plan, disk)
    yield from regenerate.check(plan, disk, dag, run, other_code)
    yield from _made_by_nothing(disk, dag, locked)
    yield from runs(plan, plan.runs, runs_in_evidence(), depth)


def runs(plan: Plan, planned: Iterable[str], evidence: Iterable[str], depth: Depth) -> Iterator[Finding]:
    """Findings on runs of the plan and in evidence/: as run_check has them, and what `depth` says."""
    found = [run_check.of_plan(plan, run_id) for run_id in planned]
    for run_id in evidence:
        try:
            found.append(run_check.of_evidence(run_id))
        except UserError as error:
            yield wrong(EVIDENCE / run_id / ORIGIN, error.what)
    for run in found:
        yield from run_check.check(run, plan)
    for run in found:
        if depth.deep:
            from pipeline.evidence import recompute  # and with it torch

            yield recompute.evaluated(run, plan)
        elif run.weights.is_file():
            why, fix = "was not computed again from the weights", f"wrn-pipe verify --deep {run.id}"
            yield unchecked(run.predictions, why, fix)
        if depth.deeper == run.id and not run.commit:
            from pipeline.evidence import recompute

            yield from recompute.trained(plan, run.id, depth.epochs)
        elif run.weights.is_file() and not run.commit:
            why = "weights and history.csv were not trained again"
            yield unchecked(run.trained, why, f"wrn-pipe verify --deeper {run.id}")


def _made_by_nothing(disk: lock_check.Disk, dag: Sequence[Stage], locked: dict[str, Any]) -> Iterator[Finding]:
    """Entries of dvc.lock without a stage, and results that no stage makes."""
    kinds = {stage.kind for stage in dag}
    names = {stage.name for stage in dag}
    for name in locked:
        kind, _, key = name.partition("@")
        if name not in names and kind in kinds and key:  # DVC leaves it there when a run is taken out of the plan
            yield unchecked(LOCK, f"{name} is not in {PARAMS} (any more), so nothing here is compared with its entry")
        elif name not in names:
            yield wrong(f"{LOCK}: {name}", f"{DAG} has no such stage", f"git checkout {DAG} {LOCK}")
    made = {out for stage in dag for out in stage.committed}
    for path in (f"{RESULTS}/{name}" for name in disk.names(str(RESULTS))):
        if Path(path).is_relative_to(OWN):
            yield unchecked(path, "no stage makes it; docs/reference/fast.md says what it is")
        elif path not in made:
            yield wrong(path, f"no stage of {DAG} makes it", f"git rm it, or move it out of {RESULTS}/")
