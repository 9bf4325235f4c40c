"""Everything that `wrn-pipe verify` looks at, in one order: the lock, the data, each run, the results."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from pipeline.dvc_lock import LOCK
from pipeline.dvc_lock import read as read_lock
from pipeline.errors import UserError
from pipeline.evidence import data_check, lock_check, regenerate, run_check
from pipeline.evidence.findings import Finding, unchecked, wrong
from pipeline.params import PARAMS, Plan
from pipeline.runner.dag import DAG, Stage, stages
from pipeline.runner.dvc import running_stages

RESULTS = Path("results")
OWN = RESULTS / "fast"
"""Of trainings outside the plan, see docs/reference/fast.md."""


def verify(
    plan: Plan,
    run: regenerate.Run,
    *,
    data: bool = True,
    deep: bool = False,
    deeper: str | None = None,
    epochs: int | None = None,
    other_code: str = "",
) -> Iterator[Finding]:
    """Findings on the repository in the current folder, with `run` to run a stage's command.

    Computed again: the md5 of every file that dvc.lock names; digests of the data's decoded content; metrics, from
    predictions; labels, from the data; fingerprints, from settings, code and data; every result that git keeps, by its
    own stage. `data` false leaves out what reads the datasets, which may be large. `deep`: predictions as well, from
    weights. `deeper`: so are the weights of this run, from nothing, in this many `epochs`.
    `other_code`: as regenerate has it.
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
    for run_id in plan.runs:
        yield from run_check.check(plan, run_id)
    yield from regenerate.check(plan, disk, dag, run, other_code)
    yield from _made_by_nothing(disk, dag, locked)
    for run_id in plan.runs:
        yield from _again(plan, run_id, deep, deeper == run_id, epochs)


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


def _again(plan: Plan, run_id: str, deep: bool, deeper: bool, epochs: int | None) -> Iterator[Finding]:
    """Predictions from weights and weights from nothing; where that is not asked for, that it was not done."""
    predictions, trained = Path("evaluations", run_id, "predictions.parquet"), Path("models", run_id)
    if deep or deeper:
        from pipeline.evidence import recompute  # and with it torch
    if deep:
        yield from recompute.evaluated(plan, run_id)
    elif predictions.is_file():
        yield unchecked(predictions, "was not computed again from the weights", "wrn-pipe verify --deep")
    if deeper:
        yield from recompute.trained(plan, run_id, epochs)
    elif (trained / "model.safetensors").is_file():
        why = "weights and history.csv were not trained again"
        yield unchecked(trained, why, f"wrn-pipe verify --deeper {run_id}")
