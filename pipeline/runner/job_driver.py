"""The jobs of one driver, until each run is made or given up: submitted as there is room, watched, and tried again."""

import signal
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from pipeline import signals
from pipeline.errors import StoppedError
from pipeline.params import Plan
from pipeline.progress import Task, counted, progress, say
from pipeline.runner.child_processes import modules_below, terminate
from pipeline.runner.failure_record import failure_record, forget_failure_record
from pipeline.runner.job import SCRATCH, evaluated, trained
from pipeline.runner.jobs import Job, at_work, forget, note, noted
from pipeline.runner.run_lock import living
from pipeline.runner.submit import Place, Work

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


def work_off(plan: Plan, works: Sequence[Work], place: Place, again: str) -> list[Failure]:
    """Let jobs bring all works to their end; the runs that were given up."""
    with progress("runs", len(works), "runs", notes=True) as task, signals.noted() as received:
        driver = _Driver(plan, place, task, list(works))
        driver.find()
        quiet = time.monotonic()
        while driver.waiting or driver.active:
            if received:
                _leave(driver, received, again)
            before = (len(driver.waiting), len(driver.active), len(driver.running))
            driver.fill()
            driver.look()
            driver.show()
            if before != (len(driver.waiting), len(driver.active), len(driver.running)):
                quiet = time.monotonic()
            # Often while something happens; a cluster is asked less and less while nothing does.
            _wait(min(_MOST_POLL_S, max(_LEAST_POLL_S, (time.monotonic() - quiet) / 20)), received)
        return driver.failures


@dataclass
class _Driver:
    """What one driver knows of its runs. Every work is in exactly one of waiting, active, done and failed."""

    plan: Plan
    place: Place
    task: Task
    waiting: list[Work]
    active: dict[Work, Job | None] = field(default_factory=dict)
    """None of a run that somebody else trains, such as wrn-pipe stage train."""
    running: set[Work] = field(default_factory=set)
    """Of the active ones, those that were seen at work."""
    attempts: Counter[Work] = field(default_factory=Counter)
    gone: dict[Work, float] = field(default_factory=dict)
    """When its job was first seen to be over without a result."""
    failures: list[Failure] = field(default_factory=list)

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
                    self.running.add(work)
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
        for work, job in list(self.active.items()):
            if job and (state := lives.get(work.fingerprint)):
                self.gone.pop(work, None)
                if state == "running" and work not in self.running:
                    self.running.add(work)
                    say(f"{work.run}: runs as {job}, log: {job.log}")
                continue
            if not job and living(SCRATCH / work.fingerprint):
                continue
            made = self._made(work)
            if not made and job and job.system == "slurm":
                # A shared folder may show a file only some time after it was written.
                since = self.gone.setdefault(work, time.monotonic())
                if time.monotonic() - since < _SETTLE_S:
                    continue
            self.gone.pop(work, None)
            del self.active[work]
            self.running.discard(work)
            forget(work.fingerprint)
            if made:
                self.task.advance()
                say(f"{work.run}: done")
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
            by_attempt.setdefault(self.attempts[work] + 1, []).append(work)
        for attempt, works in by_attempt.items():
            for work in works:
                for stage in work.stages:
                    forget_failure_record(stage)
            for work, job in zip(works, self.place.submit(works, attempt), strict=True):
                note(job)
                self.attempts[work] = attempt
                self._activate(work, job)

    def show(self) -> None:
        queued = len(self.active) - len(self.running) + len(self.waiting)
        self.task.note(f"{len(self.running)} running, {queued} waiting, {len(self.failures)} failed")

    def _activate(self, work: Work, job: Job | None) -> None:
        self.waiting.remove(work)
        self.active[work] = job

    def _made(self, work: Work) -> bool:
        whole = evaluated(self.plan, work.run, work.fingerprint).is_dir()
        return whole and (work.stage == "evaluate" or trained(work.fingerprint).is_dir())

    def _failed(self, work: Work, job: Job) -> None:
        words = failure_record(f"train@{work.run}") or failure_record(f"evaluate@{work.run}")
        why = words.what if words else f"ended without a word ({_last_line(job.log)})"
        failure = Failure(work.run, why, job.log)
        mistake = words is not None and (words.exit_code == 2 or words.stopped)
        if mistake or job.attempt >= ATTEMPTS:
            self.failures.append(failure)
            say(f"{failure}: given up after attempt {job.attempt}")
        else:
            say(f"{failure}: attempt {job.attempt} of {ATTEMPTS} failed, again")
            self.waiting.append(work)


def _leave(driver: _Driver, received: Sequence[int], again: str) -> None:
    """End this driver on a signal: what trains on this machine saves and ends, jobs of a cluster go on."""
    jobs = [job for job in driver.active.values() if job]
    signum, heard, told = received[0], 1, set[int]()
    if any(job.system == "slurm" for job in jobs):
        ids = " ".join(sorted({job.id.split("_")[0] for job in jobs if job.system == "slurm"}))
        raise StoppedError(
            signum,
            f"{counted(len(jobs), 'job')} of the cluster go on without this driver; wrn-pipe status shows them",
            f"attach again with: {again} (or end them with: scancel {ids})",
        )
    say(f"{signal.Signals(signum).name}: {counted(len(jobs), 'training')} save and end")
    while at_work(jobs):  # a job that starts may have no training yet
        if len(received) > heard:  # a training that is told twice ends at once, as one without a driver does
            heard = len(received)
            told.clear()
        for job in jobs:
            further = [p for p in modules_below(int(job.id), "pipeline.runner.job") if p.pid not in told]
            told.update(process.pid for process in further)
            terminate(further)
        time.sleep(_LEAST_POLL_S)
    for job in jobs:
        forget(job.fingerprint)
    kept = "their last saved states are kept" if heard > 1 else "nothing is lost"
    raise StoppedError(signum, f"stopped {counted(len(jobs), 'training')}, {kept}", f"continue with: {again}")


def _wait(seconds: float, received: list[int]) -> None:
    """So many seconds, or until a signal comes, which does not end Python's own sleep."""
    until = time.monotonic() + seconds
    while not received and (left := until - time.monotonic()) > 0:
        time.sleep(min(left, _LEAST_POLL_S))


def _last_line(log: str) -> str:
    try:
        lines = Path(log).read_text(encoding="utf-8", errors="replace").strip().splitlines()
    except OSError as error:
        return f"no log: {error.strerror}"
    return lines[-1] if lines else "an empty log"
