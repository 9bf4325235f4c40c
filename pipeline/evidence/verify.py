"""Everything that `wrn-pipe verify` looks at, in one order: the lock, the data, each run, the results."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from pipeline.errors import UserError
from pipeline.evidence import lock, remade, runs
from pipeline.evidence.findings import Finding, State, wrong
from pipeline.execution import data_check, data_state
from pipeline.execution.dag import stages
from pipeline.execution.lock import LOCK
from pipeline.execution.lock import read as read_lock
from pipeline.params import Plan

_STATES: dict[data_check.Verdict, State] = {
    "right": "right",
    "wrong": "wrong",
    "missing": "wrong",
    "unrecorded": "unchecked",
}


def verify(plan: Plan, run: remade.Run, *, data: bool = True) -> Iterator[Finding]:
    """Findings on the repository in the current folder, with `run` to run a stage's command.

    What is computed anew: the md5 of every file that dvc.lock names; digests of the data's decoded content; metrics,
    from predictions; labels, from the data; fingerprints, from settings, code and data; every result that git keeps,
    by its own stage. `data` false leaves out what reads the datasets, which may be large.
    """
    root = Path.cwd()
    disk, dag = lock.Disk(root), stages(root)
    recorded: dict[str, Any] = {}
    try:
        recorded = read_lock(root)
        yield from lock.check(disk, dag, recorded, data=data)
    except UserError as error:
        yield wrong(LOCK, f"{error.what}; {error.remedy}")
    if not LOCK.is_file():
        yield wrong(LOCK, f"is not here; git checkout {LOCK}, or wrn-pipe repro")
    if data:
        yield from _data(plan, disk, recorded)
    for run_id in plan.runs:
        yield from runs.check(plan, run_id)
    yield from remade.check(disk, dag, run)


def _data(plan: Plan, disk: lock.Disk, recorded: dict[str, Any]) -> Iterator[Finding]:
    """The datasets' content. Which folders are not here, or hold more or less than was written, lock.check says."""
    for name, dataset in plan.datasets.items():
        folders = [data_state.RAW / name]
        folders += [data_state.BETON / key for key, each in plan.representations.items() if each.dataset == name]
        absent = [folder for folder in folders if not disk.is_here(str(folder))]
        if len(absent) < len(folders):
            found = data_check.verify(name, dataset, plan, data_state.Lock(recorded, frozenset()))
            inside = tuple(f"{folder}/" for folder in absent)
            yield from (
                Finding(each.path, _STATES[each.verdict], each.why)
                for each in found
                if not each.path.startswith(inside or ("/",)) and not each.path.endswith("/")
            )
