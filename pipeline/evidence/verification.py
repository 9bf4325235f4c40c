"""Everything that `wrn-pipe verify` looks at, in one order: the lock, the data, the results, each run."""

import json
import tempfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import chdir, contextmanager
from itertools import zip_longest
from pathlib import Path
from typing import Any, NamedTuple

from pipeline.artifacts import EVIDENCE, ORIGIN, runs_in_evidence
from pipeline.dvc_lock import LOCK
from pipeline.dvc_lock import read as read_lock
from pipeline.errors import UserError, WrnPipeError
from pipeline.evidence import file_check, run_check
from pipeline.evidence.file_check import Disk
from pipeline.evidence.findings import Finding, right, unchecked, wrong
from pipeline.params import PARAMS, Plan
from pipeline.provenance import DAG
from pipeline.runner.dag import Stage, stages
from pipeline.runner.dvc import running_stages

RESULTS = Path("results")
OWN = RESULTS / "fast"
"""Of trainings outside the plan, see docs/reference/fast.md."""
Run = Callable[[str], None]
"""Runs a stage's command, such as `python -m stages.tabulate 4`, in the current folder."""
_HIDDEN = {"scratch", "tracking"}


class Depth(NamedTuple):
    """How much of the runs is computed again, beyond what takes seconds."""

    deep: bool = False
    """Predictions, from weights."""
    deeper: str | None = None
    """Of this run of the plan the weights, from nothing."""
    epochs: int | None = None
    """Of that training; None: all."""


def verify(plan: Plan, run: Run, depth: Depth, *, data: bool = True, other_code: str = "") -> Iterator[Finding]:
    """Findings on the repository in the current folder, with `run` to run a stage's command.

    Computed again: the md5 of every file that dvc.lock names; digests of the data's decoded content; every result that
    git keeps, by its own stage; and of every run what `runs` does. `data` false leaves out what reads the datasets,
    which may be large. `other_code`: why the code here may make other results than those that are compared; they are
    then unchecked, not wrong.
    """
    root = Path.cwd()
    disk, dag = Disk(root), stages(root)
    locked: dict[str, Any] = {}
    for name, pid in running_stages({stage.name: stage for stage in dag}).items():
        yield unchecked(DAG, f"{name} runs (process {pid}): what it writes, and all that needs it, is about to change")
    try:
        locked = read_lock(root)
        yield from file_check.check(disk, dag, locked, data=data)
    except UserError as error:
        yield wrong(LOCK, error.what, error.remedy)
    else:
        if not LOCK.is_file():
            yield wrong(LOCK, "not found", f"git checkout {LOCK}, or wrn-pipe repro")
    if data:
        for name in plan.datasets:
            yield from file_check.content(name, plan, disk)
    yield from _made_again(plan, disk, dag, run, other_code)
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
        elif (run.weights if run.commit else run.predictions).is_file():
            why, fix = "was not computed again from the weights", f"wrn-pipe verify --deep {run.id}"
            yield unchecked(run.predictions, why, fix)
        if depth.deeper == run.id and not run.commit:
            from pipeline.evidence import recompute

            yield from recompute.trained(plan, run.id, depth.epochs)
        elif run.weights.is_file() and not run.commit:
            why = "weights and history.csv were not trained again"
            yield unchecked(run.trained, why, f"wrn-pipe verify --deeper {run.id}")


@contextmanager
def _view(root: Path, *own: str) -> Iterator[Path]:
    """A folder that shows the repository at `root` by links, but has empty folders `own` of its own: the current one.

    What a stage writes to those is lost at the end, and MLflow's store and unfinished trainings are out of its sight.
    """
    root = root.resolve()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for path in root.iterdir():
            if path.name not in (*own, *_HIDDEN) and not path.name.startswith("."):
                (folder / path.name).symlink_to(path)
        for each in own:
            (folder / each).mkdir()
        with chdir(folder):
            yield folder


def _made_again(plan: Plan, disk: Disk, dag: Sequence[Stage], run: Run, other_code: str) -> Iterator[Finding]:
    """Each output of the stages whose outputs all are in git, against what the stage makes now of the files here: they
    read what git has of the runs, so a fresh clone can do it.

    The plan is cut down to the runs that are evaluated: the others are not in these results yet.
    """
    made = [stage for stage in dag if stage.in_git]
    evaluated = {name: each for name, each in plan.runs.items() if disk.is_here(f"evaluations/{name}/metrics.json")}
    with _view(disk.root, *{Path(out).parts[0] for stage in made for out in stage.outs}) as folder:
        if len(evaluated) < len(plan.runs):
            (folder / PARAMS).unlink()
            cut = plan.model_copy(update={"runs": evaluated})
            (folder / PARAMS).write_text(json.dumps(cut.model_dump(mode="json")), encoding="utf-8")
        for stage in made:
            for finding in _compare(disk, stage, run, folder):
                differs = other_code and finding.state == "wrong" and (disk.root / finding.path).is_file()
                yield unchecked(finding.path, other_code) if differs else finding


def _compare(disk: Disk, stage: Stage, run: Run, folder: Path) -> Iterator[Finding]:
    for out in stage.outs:
        (folder / out).parent.mkdir(parents=True, exist_ok=True)
    try:
        run(stage.command)
    except Exception as error:  # noqa: BLE001 - a stage trusts its inputs, which somebody may have edited
        why = error.what if isinstance(error, WrnPipeError) else repr(error)
        yield from (wrong(out, f"cannot be made again: {why}") for out in stage.outs)
        return
    for out in stage.outs:
        here, made = disk.root.resolve() / out, folder / out
        if not here.is_file():
            yield wrong(out, "not found", f"git checkout {out}, or wrn-pipe repro {stage.name}")
        elif not made.is_file():
            yield wrong(out, f"is not what {stage.name} makes: {stage.command}")
        elif here.read_bytes() == made.read_bytes():
            yield right(out, f"is what {stage.name} makes of the runs here")
        else:
            lines = zip_longest(*(path.read_bytes().split(b"\n") for path in (here, made)))
            first = next(number for number, (one, other) in enumerate(lines, 1) if one != other)
            yield wrong(out, f"is not what {stage.name} makes of the runs here: line {first}")


def _made_by_nothing(disk: Disk, dag: Sequence[Stage], locked: dict[str, Any]) -> Iterator[Finding]:
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
