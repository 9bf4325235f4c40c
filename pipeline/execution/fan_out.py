"""Many runs at once: one driver asks DVC what is out of date, lets jobs fill scratch/, and publishes what they made.

DVC's lock, dvc.lock and MLflow belong to the driver alone, so what comes out is what `dvc repro` by itself gives, byte
for byte where the jobs have as many threads.
"""

import os
import signal
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType

from filelock import FileLock, Timeout

from pipeline.errors import UserError, WrnPipeError, forget_last_words, last_words
from pipeline.execution.at_work import ask
from pipeline.execution.dag import Stage, read_dag, with_behind
from pipeline.execution.dvc import looked_at, record, repro
from pipeline.execution.job import SCRATCH, evaluated, trained
from pipeline.execution.jobs import JOBS, Job, at_work, forget, note, noted
from pipeline.execution.submit import Place, Work
from pipeline.params import Plan, load
from pipeline.progress import Task, progress, say
from pipeline.provenance import fingerprint
from pipeline.publish import new_folder
from pipeline.tracking.sync import log_runs
from pipeline.training.holder import discard_unless_held, living

ATTEMPTS = 3
"""Of one run by one driver, before it is given up."""
_LEAST_POLL_S, _MOST_POLL_S = 0.5, 20.0
_SETTLE_S = 20.0


@dataclass(frozen=True)
class Failure:
    """A run that was given up."""

    run: str
    why: str
    log: str

    def __str__(self) -> str:
        return f"{self.run}: {self.why}; log: {self.log}"


def fan_out(plan: Plan, targets: Sequence[str], place: Place, again: str, force: bool = False) -> int:
    """Bring `targets` up to date with jobs for the runs. The exit code as `repro` gives it.

    `again`: the command that goes on. `force`: train and evaluate all runs, even when nothing changed.

    Raises UserError when another driver is at work here or the jobs are refused, StoppedDriverError on a signal, and
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
            failures = _work_off(plan, works, place, again)
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
    record([f"{stage}@{work.run}" for work in works for stage in _STAGES[work.stage]])
    for work in works:
        discard_unless_held(SCRATCH / work.fingerprint, work.run)


_STAGES = {"train": ("train", "evaluate"), "evaluate": ("evaluate",)}


@contextmanager
def _sole_driver() -> Iterator[None]:
    JOBS.mkdir(parents=True, exist_ok=True)
    lock = FileLock(JOBS / "driver.lock")
    try:
        lock.acquire(timeout=0)
    except Timeout:
        raise UserError(
            "another wrn-pipe repro --jobs or --slurm drives the jobs of this checkout",
            "watch it with wrn-pipe status; after Ctrl-C there this command takes its jobs over",
        ) from None
    try:
        yield
    finally:
        lock.release()


@dataclass
class _Driver:
    """What one driver knows of its runs. Every work is in exactly one of waiting, active, done and failed."""

    plan: Plan
    place: Place
    task: Task
    waiting: list[Work]
    active: dict[str, Job | None] = field(default_factory=dict)
    """Run -> its job; None of a run that somebody else trains, such as wrn-pipe stage train."""
    running: set[str] = field(default_factory=set)
    """Of the active ones, those that were seen at work."""
    attempts: dict[str, int] = field(default_factory=dict)
    gone: dict[str, float] = field(default_factory=dict)
    """Run -> when its job was first seen to be over without a result."""
    failures: list[Failure] = field(default_factory=list)
    works: dict[str, Work] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.works = {work.run: work for work in self.waiting}

    def find(self) -> None:
        """What earlier drivers and jobs have left: results, and jobs that are under way."""
        jobs = noted()
        lives = at_work(jobs.values())
        for work in list(self.waiting):
            job = jobs.get(work.fingerprint)
            if work.fingerprint in lives and job and job.stage == work.stage:
                say(f"{work.run}: {job} of an earlier driver is {lives[work.fingerprint]}, log: {job.log}")
                self._activate(work, job)
                if lives[work.fingerprint] == "running":
                    self.running.add(work.run)
            elif self._made(work):
                say(f"{work.run}: made by an earlier job")
                self.waiting.remove(work)
                self.task.advance()
            elif holder := living(SCRATCH / work.fingerprint):
                say(f"{work.run} is being trained by {holder}: waiting for its end")
                self._activate(work, None)

    def look(self) -> None:
        """See which jobs are over, and what came of them."""
        lives = at_work([job for job in self.active.values() if job])
        for run, job in list(self.active.items()):
            work = self.works[run]
            if job and (state := lives.get(work.fingerprint)):
                if state == "running" and run not in self.running:
                    self.running.add(run)
                    say(f"{run}: runs as {job}, log: {job.log}")
                continue
            if not job and living(SCRATCH / work.fingerprint):
                continue
            made = self._made(work)
            if not made and job and job.system == "slurm":
                # A shared folder may show a file only some time after it was written.
                since = self.gone.setdefault(run, time.monotonic())
                if time.monotonic() - since < _SETTLE_S:
                    continue
            self.gone.pop(run, None)
            del self.active[run]
            self.running.discard(run)
            forget(work.fingerprint)
            if made:
                self.task.advance()
                say(f"{run}: done")
            elif job is None:
                self.waiting.append(work)
            else:
                self._failed(work, job)

    def fill(self) -> None:
        """Submit as much as there is room for. Lately failed runs come last."""
        occupied = sum(job is None or job.system != self.place.system for job in self.active.values())
        some = self.waiting[: max(0, self.place.free() - occupied)]
        by_attempt: dict[int, list[Work]] = {}
        for work in some:
            by_attempt.setdefault(self.attempts.get(work.run, 0) + 1, []).append(work)
        for attempt, works in by_attempt.items():
            for work in works:
                for stage in _STAGES[work.stage]:
                    forget_last_words(f"{stage}@{work.run}")
            for work, job in zip(works, self.place.submit(works, attempt), strict=True):
                note(job)
                self.attempts[work.run] = attempt
                self._activate(work, job)

    def show(self) -> None:
        queued = len(self.active) - len(self.running) + len(self.waiting)
        self.task.note(f"{len(self.running)} running, {queued} waiting, {len(self.failures)} failed")

    def _activate(self, work: Work, job: Job | None) -> None:
        self.waiting.remove(work)
        self.active[work.run] = job

    def _made(self, work: Work) -> bool:
        whole = evaluated(self.plan, work.run, work.fingerprint).is_dir()
        return whole and (work.stage == "evaluate" or trained(work.fingerprint).is_dir())

    def _failed(self, work: Work, job: Job) -> None:
        words = last_words(f"train@{work.run}") or last_words(f"evaluate@{work.run}")
        why = words.what if words else f"ended without a word ({_last_line(job.log)})"
        failure = Failure(work.run, why, job.log)
        mistake = words is not None and (words.exit_code == 2 or words.stopped)
        if mistake or job.attempt >= ATTEMPTS:
            self.failures.append(failure)
            say(f"{failure}: given up after attempt {job.attempt}")
        else:
            say(f"{failure}: attempt {job.attempt} of {ATTEMPTS} failed, again")
            self.waiting.append(work)


def _work_off(plan: Plan, works: Sequence[Work], place: Place, again: str) -> list[Failure]:
    """Let jobs bring all works to their end; the runs that were given up."""
    with progress("runs", len(works), "runs", notes=True) as task, _stopped() as signals:
        driver = _Driver(plan, place, task, list(works))
        driver.find()
        quiet = time.monotonic()
        while driver.waiting or driver.active:
            if signals:
                _leave(driver, signals[0], again)
            before = (len(driver.waiting), len(driver.active), len(driver.running))
            driver.fill()
            driver.look()
            driver.show()
            if before != (len(driver.waiting), len(driver.active), len(driver.running)):
                quiet = time.monotonic()
            # Often while something happens; a cluster is asked less and less while nothing does.
            _wait(min(_MOST_POLL_S, max(_LEAST_POLL_S, (time.monotonic() - quiet) / 20)), signals)
        return driver.failures


def _edited(works: Sequence[Work], now: Plan) -> list[Failure]:
    """What must not be recorded as made of the inputs that lie here now."""
    return [
        Failure(work.run, "settings, code or data were edited while it was trained", f"results in {SCRATCH}")
        for work in works
        if work.run not in now.runs or fingerprint(now, work.run) != work.fingerprint
    ]


def _leave(driver: _Driver, signum: int, again: str) -> None:
    """End this driver on a signal: what trains on this machine saves and ends, jobs of a cluster go on."""
    jobs = [job for job in driver.active.values() if job]
    name = signal.Signals(signum).name
    if any(job.system == "slurm" for job in jobs):
        ids = " ".join(sorted({job.id.split("_")[0] for job in jobs if job.system == "slurm"}))
        raise StoppedDriverError(
            signum,
            f"{name}: {_count(len(jobs), 'job')} of the cluster go on without this driver; wrn-pipe status shows them",
            f"attach again with: {again} (or end them with: scancel {ids})",
        )
    say(f"{name}: {_count(len(jobs), 'training')} save and end")
    while at_work(jobs):  # again and again: a training that starts may not listen yet
        driver.place.stop(jobs)
        time.sleep(_LEAST_POLL_S)
    for job in jobs:
        forget(job.fingerprint)
    raise StoppedDriverError(
        signum, f"{name}: stopped {_count(len(jobs), 'training')}, nothing is lost", f"continue with: {again}"
    )


class StoppedDriverError(WrnPipeError):
    """The user or the system stopped the driver."""

    def __init__(self, signum: int, what: str, remedy: str) -> None:
        super().__init__(what, remedy)
        self.exit_code = 128 + signum


@contextmanager
def _stopped() -> Iterator[list[int]]:
    """The signals that asked to stop while the block runs."""
    received: list[int] = []

    def handler(signum: int, frame: FrameType | None) -> None:
        received.append(signum)

    before = {s: signal.signal(s, handler) for s in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield received
    finally:
        for signum, kept in before.items():
            signal.signal(signum, kept)


def _wait(seconds: float, signals: list[int]) -> None:
    """So many seconds, or until a signal comes, which does not end Python's own sleep."""
    until = time.monotonic() + seconds
    while not signals and (left := until - time.monotonic()) > 0:
        time.sleep(min(left, _LEAST_POLL_S))


def _gave_up(failures: Sequence[Failure], again: str) -> WrnPipeError:
    for failure in failures:
        say(f"failed: {failure}")
    return WrnPipeError(
        f"{_count(len(failures), 'run')} failed, named above; the others are published, the tables wait for all",
        f"mend what they say, then: {again}",
    )


def _last_line(log: str) -> str:
    try:
        lines = Path(log).read_text(encoding="utf-8", errors="replace").strip().splitlines()
    except OSError as error:
        return f"no log: {error.strerror}"
    return lines[-1] if lines else "an empty log"


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}" + ("" if number == 1 else "s")
