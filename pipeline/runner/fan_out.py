"""Many runs at once: one driver asks DVC what is out of date, lets jobs fill scratch/, and publishes what they made.

DVC's lock, dvc.lock and MLflow belong to the driver alone, so what comes out is what `dvc repro` by itself gives, byte
for byte where the jobs have as many threads.
"""

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

from pipeline.errors import UserError, WrnPipeError
from pipeline.params import Plan
from pipeline.progress import counted, say
from pipeline.provenance import fingerprint
from pipeline.publish import new_folder
from pipeline.runner.dag import Stage, read_dag, with_behind
from pipeline.runner.dvc import ask, looked_at, record, repro
from pipeline.runner.job import SCRATCH, evaluated, trained
from pipeline.runner.job_driver import Failure, work_off
from pipeline.runner.jobs import JOBS
from pipeline.runner.params_file import load
from pipeline.runner.run_lock import discard_unless_held
from pipeline.runner.submit import Place, Slots, Work
from pipeline.tracking.sync import log_runs
from pipeline.training.processes import number_of_processes


def fan_out(plan: Plan, targets: Sequence[str], place: Place, again: str, force: bool = False) -> int:
    """Bring `targets` up to date with jobs for the runs. The exit code as `repro` gives it.

    `again`: the command that goes on. `force`: train and evaluate all runs, even when nothing changed.

    Raises UserError when another driver is at work here or the jobs are refused, StoppedError on a signal, and
    WrnPipeError when runs failed, which are named; everything else is published then.
    """
    stages = read_dag(plan)
    wanted = looked_at(plan, targets, stages)
    with _sole_driver():
        upstream = [name for name in wanted if stages[name].kind in ("download", "convert")]
        if upstream and (code := repro(plan, upstream)):
            return code
        works = stale_runs(plan, wanted, stages, force)
        if works:
            _need_gpus(plan, works, place)
            failures = work_off(plan, works, place, again)
            failures += _edited(works, load())
            given_up = {failure.run for failure in failures}
            made = [work for work in works if work.run not in given_up]
            publish(plan, made)
            # What stands behind failed runs would train them here, one after another.
            code = 0 if failures else repro(plan, targets)
            log_runs(plan, [work.run for work in made])
            if failures:
                raise _gave_up(failures, again)
            return code
        return repro(plan, targets)


def stale_runs(plan: Plan, wanted: Sequence[str], stages: dict[str, Stage], force: bool = False) -> list[Work]:
    """The runs among `wanted` stages that are out of date, and from which stage on.

    Asks DVC, which takes its time with many runs. `force`: all of them, from their training on.
    """
    ours = [name for name in wanted if stages[name].kind in ("train", "evaluate")]
    if not ours:
        return []
    changed = set(ours) if force else set(ask([stages[name] for name in ours], (), wait=True))
    behind = with_behind({name: stages[name] for name in ours}, changed)
    runs = dict.fromkeys(stages[name].key for name in behind)
    return [Work(run, fingerprint(plan, run), "train" if f"train@{run}" in behind else "evaluate") for run in runs]


def publish(plan: Plan, works: Sequence[Work]) -> None:
    """Put what the jobs made where DVC looks for it, and write all of it into dvc.lock at once.

    Should this be killed, nothing is trained again: the last state of each training stays until all is recorded.
    """
    if not works:
        return
    for work in works:
        places = [(evaluated(plan, work.run, work.fingerprint), Path("evaluations") / work.run)]
        if work.stage == "train":
            places.insert(0, (trained(work.fingerprint), Path("models") / work.run))
        for made, to in places:
            with new_folder(to) as folder:
                for path in sorted(made.iterdir()):
                    os.replace(path, folder / path.name)
            made.rmdir()
    record([stage for work in works for stage in work.stages])
    for work in works:
        discard_unless_held(SCRATCH / work.fingerprint, work.run)


@contextmanager
def _sole_driver() -> Iterator[None]:
    lock = FileLock(JOBS / "driver.lock")
    try:
        JOBS.mkdir(parents=True, exist_ok=True)
        lock.acquire(timeout=0)
    except Timeout:  # which is an OSError as well
        raise UserError(
            "another wrn-pipe repro --jobs or --slurm drives the jobs of this checkout",
            "watch it with wrn-pipe status; after Ctrl-C there this command takes its jobs over",
        ) from None
    except OSError as error:
        raise UserError(f"can not write {JOBS}/driver.lock: {error.strerror}", "make the folder writable") from None
    try:
        yield
    finally:
        lock.release()


def _need_gpus(plan: Plan, works: Sequence[Work], place: Place) -> None:
    """Raise UserError for a run of several processes, each of which takes a GPU, where a job has one."""
    if not isinstance(place, Slots) or all(slot.gpu is None for slot in place.slots):
        return
    for work in works:
        if work.stage == "train" and (processes := number_of_processes(plan, work.run, None)) > 1:
            raise UserError(
                f"run {work.run} takes {processes} processes with a GPU each, and a job of --jobs has one GPU",
                f"wrn-pipe repro train@{work.run}, which uses them all; then the others by --jobs",
            )


def _edited(works: Sequence[Work], now: Plan) -> list[Failure]:
    """What must not be recorded as made of the inputs that lie here now."""
    return [
        Failure(work.run, "settings, code or data were edited while it was trained", f"results in {SCRATCH}")
        for work in works
        if work.run not in now.runs or fingerprint(now, work.run) != work.fingerprint
    ]


def _gave_up(failures: Sequence[Failure], again: str) -> WrnPipeError:
    for failure in failures:
        say(f"failed: {failure}")
    return WrnPipeError(
        f"{counted(len(failures), 'run')} failed, named above; the others are published, the tables wait for all",
        f"mend what they say, then: {again}",
    )
