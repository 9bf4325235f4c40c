"""Many runs at once: one driver asks DVC what is out of date, lets jobs fill scratch/, and publishes what they made:
what `dvc repro` by itself gives, byte for byte where the jobs have as many threads."""

import os
import signal
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from filelock import FileLock, Timeout

from pipeline.artifacts import SCRATCH
from pipeline.atomic_write import new_folder
from pipeline.errors import StoppedError, UserError, WrnPipeError
from pipeline.params import Plan
from pipeline.progress import Task, counted, progress, say
from pipeline.provenance import fingerprint
from pipeline.runner.attempts import discard_unless_locked, failure_record, forget_failure_record, living_owner, mirror
from pipeline.runner.dag import Stage, read_dag, with_behind
from pipeline.runner.dvc import ask, looked_at, need_repository, record, repro
from pipeline.runner.interruptions import handled
from pipeline.runner.jobs import JOBS, Job, Place, Work, cluster_jobs, evaluated, record_of, trained
from pipeline.runner.params_file import load

ATTEMPTS = 3  # of one run by one driver, before it is given up
_POLL_S = 0.5
_SETTLE_S = 20.0
"""A shared folder may show a file only some time after it was written."""


def repro_by_jobs(plan: Plan, targets: Sequence[str], place: Place, again: str, force: bool = False) -> int:
    """Bring `targets` up to date with jobs for the runs, all of them with `force`. The exit code as `repro` gives it.

    `again`: the command that goes on. Raises UserError when another driver is at work here or the jobs are refused,
    StoppedError on a signal, and WrnPipeError when runs failed; everything else is published then.
    """
    need_repository()
    stages = read_dag(plan)
    wanted = looked_at(plan, targets, stages)
    try:
        lock = FileLock(JOBS / "driver.lock").acquire(timeout=0)
    except Timeout:
        what = "another wrn-pipe repro --jobs or --slurm drives the jobs of this checkout"
        fix = "watch it with wrn-pipe status; after Ctrl-C there this command takes its jobs over"
        raise UserError(what, fix) from None
    with lock:
        upstream = [name for name in wanted if stages[name].kind in ("download", "convert")]
        if upstream and (code := repro(plan, upstream)):
            return code
        works = stale_runs(plan, wanted, stages, force)
        if not works:
            return repro(plan, targets)
        failures = drive(plan, works, place, again)
        now = load()
        failures |= {  # which must not be recorded as made of the inputs that lie here now
            work.run: f"settings, code or data were edited while it was trained; results in {SCRATCH}"
            for work in works
            if work.run not in now.runs or fingerprint(now, work.run) != work.fingerprint
        }
        made = [work for work in works if work.run not in failures]
        publish(plan, made)
        # The stages downstream of failed runs would train them here, one after another.
        code = 0 if failures else repro(plan, targets)
        mirror(plan, [work.run for work in made])
        for run, why in failures.items():
            say(f"failed: {run}: {why}")
        if failures:
            what = f"{counted(len(failures), 'run')} failed, named above; the others are published, the tables wait"
            raise WrnPipeError(what, f"fix what they say, then: {again}")
        return code


def stale_runs(plan: Plan, wanted: Sequence[str], stages: dict[str, Stage], force: bool = False) -> list[Work]:
    """The runs among `wanted` stages that are out of date, and from which stage on; with `force` all of them."""
    ours = [name for name in wanted if stages[name].kind in ("train", "evaluate")]
    changed = set(ours) if force else set(ask([stages[name] for name in ours], (), wait=True))
    behind = with_behind({name: stages[name] for name in ours}, changed)
    runs = dict.fromkeys(stages[name].key for name in behind)
    return [Work(run, fingerprint(plan, run), "train" if f"train@{run}" in behind else "evaluate") for run in runs]


def publish(plan: Plan, works: Sequence[Work]) -> None:
    """Put what the jobs made where DVC looks for it, and write all of it into dvc.lock at once. The last state of each
    training stays until then: should this be killed, nothing is trained again."""
    for work in works:
        places = {evaluated(plan, work.run, work.fingerprint): Path("evaluations") / work.run}
        if work.stage == "train":
            places = {trained(work.fingerprint): Path("models") / work.run} | places
        for made, to in places.items():
            with new_folder(to) as folder:
                for path in sorted(made.iterdir()):
                    os.replace(path, folder / path.name)
            made.rmdir()
    record([stage for work in works for stage in work.stages])
    for work in works:
        discard_unless_locked(SCRATCH / work.fingerprint, work.run)


@dataclass
class _Run:
    """One run that is not done, or given up."""

    work: Work
    job: Job | None = None
    """Its last. None: somebody else may train it, as wrn-pipe stage train or a job of a driver that was killed."""
    attempts: int = 0
    waits: bool = False
    over: float | None = None
    """When its job was first seen to be over without a result."""
    said: str = ""

    def say_once(self, line: str) -> None:
        if line != self.said:
            self.said = line
            say(line)


def drive(plan: Plan, works: Sequence[Work], place: Place, again: str) -> dict[str, str]:
    """Let jobs bring all works to their end; returns the runs that were given up, and why."""
    received: list[int] = []
    with progress("runs", len(works), "runs", notes=True) as task, handled(lambda signum, _: received.append(signum)):
        driver = _Driver(plan, place, task, [_Run(work) for work in works])
        jobs = cluster_jobs()
        for run in driver.left:
            if (job := jobs.get(run.work.fingerprint)) and job.stage == run.work.stage:
                run.job, run.attempts = job, 1
                say(f"{job.run}: {job} of an earlier driver is {job.activity}, log: {job.log}")
        driver.look()
        while driver.left:
            driver.fill()
            until = time.monotonic() + place.poll_s
            while not received and time.monotonic() < until:  # a signal does not end Python's own sleep
                time.sleep(_POLL_S)
            if received:
                _leave([run.job for run in driver.left if run.job and not run.waits], place, received, again)
            driver.look()
        return driver.failures


@dataclass
class _Driver:
    plan: Plan
    place: Place
    task: Task
    left: list[_Run]
    failures: dict[str, str] = field(default_factory=dict)

    def fill(self) -> None:
        """Submit as much as there is room for. Lately failed runs come last."""
        others = sum(run.job is None and not run.waits for run in self.left)
        waiting = sorted((run for run in self.left if run.waits), key=lambda run: run.attempts)
        some = waiting[: max(0, self.place.free() - others)]
        if some:
            for stage in (stage for run in some for stage in run.work.stages):
                forget_failure_record(stage)
            for run, job in zip(some, self.place.submit([run.work for run in some]), strict=True):
                run.job, run.waits, run.attempts = job, False, run.attempts + 1

    def look(self) -> None:
        """See which jobs are over, and what came of them."""
        doing = cluster_jobs() | self.place.local()
        running = 0
        for run in [run for run in self.left if not run.waits]:
            work = run.work
            # Who trains is asked before what is made: whoever ends between the two is not taken for one that failed.
            owner = None if run.job else living_owner(SCRATCH / work.fingerprint)
            whole = evaluated(self.plan, work.run, work.fingerprint).is_dir()
            made = whole and (work.stage == "evaluate" or trained(work.fingerprint).is_dir())
            if now := doing.get(work.fingerprint):
                run.over = None
                if now.activity == "running":
                    running += 1
                    run.say_once(f"{work.run}: runs as {now}, log: {now.log}")
            elif owner and not made:
                run.say_once(f"{work.run} is being trained by {owner}: waiting for its end")
            else:
                run.over = run.over or time.monotonic()
                if made or not (run.job and run.job.slurm) or time.monotonic() - run.over >= _SETTLE_S:
                    self.ended(run, made)
        self.task.note(f"{running} running, {len(self.left) - running} waiting, {len(self.failures)} failed")

    def ended(self, run: _Run, made: bool) -> None:
        name, job = run.work.run, run.job
        run.over = None
        if job and job.slurm:
            record_of(job.id).unlink(missing_ok=True)
        if made:
            self.left.remove(run)
            self.task.advance()
            say(f"{name}: {'done' if job else 'made by an earlier job'}")
            return
        run.waits = True
        if job is None:
            return
        ended = failure_record(f"train@{name}") or failure_record(f"evaluate@{name}")
        why = f"{ended.what if ended else 'it ended without a failure record'}; log: {job.log}"
        mistake = ended is not None and (ended.exit_code == UserError.exit_code or ended.stopped)
        if mistake or run.attempts >= ATTEMPTS:
            self.left.remove(run)
            self.failures[name] = why
            say(f"{name}: {why}: given up after attempt {run.attempts}")
        else:
            say(f"{name}: {why}: attempt {run.attempts} of {ATTEMPTS} failed, retrying")


def _leave(jobs: Sequence[Job], place: Place, received: Sequence[int], again: str) -> None:
    """End this driver on a signal: what trains on this machine saves and ends, jobs of a cluster go on."""
    signum, told = received[0], 0
    if cluster := [job for job in jobs if job.slurm]:
        ids = " ".join(sorted({job.id.split("_")[0] for job in cluster}))
        what = f"{counted(len(cluster), 'job')} of the cluster go on without this driver; wrn-pipe status shows them"
        raise StoppedError(signum, what, f"attach again with: {again} (or end them with: scancel {ids})")
    trainings = counted(len(place.local()), "training")
    say(f"{signal.Signals(signum).name}: {trainings} save and end")
    while local := place.local().values():
        if told < min(len(received), 2):  # a training that is told twice ends at once, as one without a driver does
            told += 1
            for job in local:
                os.kill(int(job.id), signal.SIGTERM)
        time.sleep(_POLL_S)
    kept = "nothing is lost" if told < 2 else "their last saved states are kept"
    raise StoppedError(signum, f"stopped {trainings}, {kept}", f"continue with: {again}")
