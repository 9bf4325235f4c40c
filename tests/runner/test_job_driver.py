"""The driver of many runs with jobs that are real processes, though they train nothing: a few lines of shell each."""

import json
import os
import shutil
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from made_up_runs import plan_text, result
from project import ROOT
from submitit.core.utils import DelayedSubmission

from pipeline.artifacts import SCRATCH
from pipeline.errors import StoppedError
from pipeline.params import PARAMS, Plan
from pipeline.runner.job import Job, Work, cluster_jobs, evaluated, record_of, trained
from pipeline.runner.job_driver import drive
from pipeline.runner.params_file import parse_plan
from pipeline.runner.submit import Attempt

RUNS = [result(700, seed=seed) for seed in (1, 2, 3, 4)]
FIRST, SECOND, THIRD, FOURTH = (run.run for run in RUNS)
AGAIN = "wrn-pipe repro --jobs 2"
FINISH = 'mkdir -p "$trained" "$evaluated"\n'
FAIL = "echo the disk is on fire; exit 1\n"
ENOUGH = 'test "$attempt" -lt 6 || { mkdir -p "$trained" "$evaluated"; exit 0; }\n'
"""Begins a job that fails: a driver that never gives up is to fail its test, not to hold it up."""


@pytest.fixture
def plan(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Plan:
    """Four runs; the current folder is a repository's as far as the driver looks at one."""
    shutil.copyfile(ROOT / "dvc.yaml", tmp_path / "dvc.yaml")
    monkeypatch.chdir(tmp_path)
    return parse_plan(plan_text(RUNS), PARAMS)


def work(run: str, stage: str = "train") -> Work:
    return Work(run, f"print-of-{run}", "train" if stage == "train" else "evaluate")


@dataclass
class Shell:
    """A place whose jobs are processes of `sh`, `width` of them at once; or, `slurm`, jobs of a stand-in cluster."""

    plan: Plan
    script: str
    """Of every job; $run, $attempt, $stage, and where it leaves its results: $trained and $evaluated."""
    width: int = 2
    slurm: bool = False
    submitted: list[str] = field(default_factory=list)
    """The run of each job so far."""
    processes: "dict[str, subprocess.Popen[bytes]]" = field(default_factory=dict)
    jobs: dict[str, Job] = field(default_factory=dict)

    def local(self) -> dict[str, Job]:
        alive = {
            fingerprint: job for fingerprint, job in self.jobs.items() if self.processes[fingerprint].poll() is None
        }
        return {} if self.slurm else alive

    def free(self) -> int:
        return self.width - sum(process.poll() is None for process in self.processes.values())

    def submit(self, works: Sequence[Work]) -> list[Job]:
        assert len(works) <= self.free()
        return [self.start(each) for each in works]

    def start(self, of: Work) -> Job:
        self.submitted.append(of.run)
        log = Path(f"{of.run}.log")
        told = {"run": of.run, "attempt": str(self.submitted.count(of.run)), "stage": of.stage}
        places = {"trained": trained(of.fingerprint), "evaluated": evaluated(self.plan, of.run, of.fingerprint)}
        with log.open("w") as file:
            self.processes[of.fingerprint] = subprocess.Popen(
                ["sh", "-c", self.script],
                env={**os.environ, **told, **{name: str(path) for name, path in places.items()}},
                stdout=file,
                stderr=file,
            )
        job_id = str(len(self.submitted) if self.slurm else self.processes[of.fingerprint].pid)
        self.jobs[of.fingerprint] = Job(of.run, of.fingerprint, of.stage, job_id, str(log), self.slurm)
        if self.slurm:
            record(job_id, of)
        return self.jobs[of.fingerprint]


def record(job_id: str, of: Work) -> None:
    """As submitit leaves it of a job."""
    record_of(job_id).parent.mkdir(parents=True, exist_ok=True)
    DelayedSubmission(Attempt(of)).dump(record_of(job_id))


@pytest.fixture
def shell(plan: Plan) -> Iterator[Callable[..., Any]]:
    """Makes places whose processes end with the test."""
    made: list[Shell] = []

    def place(script: str, **settings: Any) -> Shell:
        made.append(Shell(**{"plan": plan, "script": script, **settings}))
        return made[-1]

    yield place
    for process in (process for each in made for process in each.processes.values()):
        process.kill()
        process.wait()


def fail(stage: str, code: int) -> str:
    """Shell for a job that leaves a failure record, as the real one does."""
    record = json.dumps({"exit_code": code, "what": "its record", "remedy": "none"})
    return f"mkdir -p scratch/failures; echo '{record}' > scratch/failures/{stage}@$run.json; exit {code}\n"


def made(plan: Plan, of: Work) -> bool:
    return trained(of.fingerprint).is_dir() and evaluated(plan, of.run, of.fingerprint).is_dir()


# What the jobs of a run do -> how many there are, and what is said of the run; None once it is made.
ENDS: dict[str, tuple[str, int, str | None]] = {
    "a usage error": (fail("train", 2), 1, "its record"),
    "stopped while it trained": (fail("train", 130), 1, "its record"),
    "stopped while it evaluated": (fail("evaluate", 143), 1, "its record"),
    "an error, three times": (fail("evaluate", 1), 3, "its record"),
    "killed, three times": ("kill -9 $$\n", 3, "ended without a failure record"),
    "an error, twice": (f'test "$attempt" = 3 || {{ {FAIL} }}\n{FINISH}', 3, None),
    "trained, not evaluated": (f'mkdir -p "$trained"; test "$attempt" = 1 || {{ {FINISH} }}\n', 2, None),
    "evaluated, training lost": (f'mkdir -p "$evaluated"; test "$attempt" = 1 || {{ {FINISH} }}\n', 2, None),
}


def test_what_is_tried_again_and_what_is_not(shell: Callable[..., Any]) -> None:
    runs = {f"run-{seed}": end for seed, end in enumerate(ENDS.values(), 1)}
    plan = parse_plan(plan_text([result(700, seed=int(run[4:]), run=run) for run in runs]), PARAMS)
    cases = [f"{run})\n{ENOUGH}{script};;" for run, (script, _, _) in runs.items()]
    place = shell("\n".join(["case $run in", *cases, "esac"]), plan=plan)
    failures_folder = Path("scratch/failures")
    failures_folder.mkdir(parents=True)
    for run in runs:  # of an earlier attempt: a job that is killed leaves none
        for stage in ("train", "evaluate"):
            text = '{"exit_code": 2, "what": "of yesterday", "remedy": null}'
            (failures_folder / f"{stage}@{run}.json").write_text(text)
    failures = drive(plan, [work(run) for run in runs], place, AGAIN)
    assert set(place.submitted[: len(runs)]) == set(runs), "others come before a second attempt"
    for run, (_, attempts, why) in runs.items():
        said = failures.get(run)
        assert place.submitted.count(run) == attempts, run
        assert (said is None) == (why is None), run
        assert made(plan, work(run)) == (why is None)
        assert said is None or why in said


def test_what_an_earlier_job_made_is_not_made_again(plan: Plan, shell: Callable[..., Any]) -> None:
    """All of it; who has trained but not evaluated goes on, and so does who was evaluated by code edited since."""
    whole, half, evaluation, edited = work(FIRST), work(SECOND), work(THIRD, "evaluate"), work(FOURTH)
    for each in (whole, evaluation):
        evaluated(plan, each.run, each.fingerprint).mkdir(parents=True)
    for each in (whole, half, edited):
        trained(each.fingerprint).mkdir(parents=True)
    (SCRATCH / edited.fingerprint / "evaluated-0123456789abcdef").mkdir()
    place = shell(FINISH)
    assert drive(plan, [whole, half, evaluation, edited], place, AGAIN) == {}
    assert sorted(place.submitted) == [SECOND, FOURTH]


@contextmanager
def signalled_when(*ready: Path) -> Iterator[None]:
    """This process gets a SIGTERM as soon as each of these files is there."""

    def send() -> None:
        for path in ready:
            while not path.exists() and not over.is_set():
                time.sleep(0.05)
            if not over.is_set():
                os.kill(os.getpid(), signal.SIGTERM)

    over = threading.Event()
    thread = threading.Thread(target=send)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


WAIT_FOR_TERM = """
end() { touch "$run.told"; trap - TERM; for _ in $(seq PAUSE); do sleep 0.1; done; touch "$run.saved"; exit 143; }
trap end TERM
touch "$run.ready"
for _ in $(seq 600); do sleep 0.1; done
"""


@pytest.mark.parametrize("signals", [1, 2])
def test_a_driver_that_is_told_to_end_lets_its_trainings_save_unless_told_twice(
    signals: int, plan: Plan, shell: Callable[..., Any]
) -> None:
    place = shell(WAIT_FOR_TERM.replace("PAUSE", "1" if signals == 1 else "600"))
    ready = [Path(f"{FIRST}.ready"), Path(f"{FIRST}.told")][:signals]
    with signalled_when(*ready), pytest.raises(StoppedError) as stopped:
        drive(plan, [work(FIRST)], place, AGAIN)
    assert stopped.value.exit_code == 143
    kept = "nothing is lost" if signals == 1 else "their last saved states are kept"
    assert f"stopped 1 training, {kept}" in stopped.value.what
    assert AGAIN in stopped.value.remedy
    assert Path(f"{FIRST}.saved").exists() == (signals == 1)
    assert [process.wait() for process in place.processes.values()] == [143 if signals == 1 else -signal.SIGTERM]


@pytest.fixture
def queue(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """What a stand-in for Slurm's squeue prints: `12 RUNNING` in a line of its own for each job."""
    programs = tmp_path / "programs"
    programs.mkdir()
    told = tmp_path / "queue"
    told.touch()
    (programs / "squeue").write_text(f"#!/bin/sh\ncat {told}\n")
    (programs / "squeue").chmod(0o755)
    monkeypatch.setenv("PATH", str(programs), prepend=os.pathsep)
    return told


def test_the_cluster_says_what_its_jobs_do(plan: Plan, queue: Path) -> None:
    assert cluster_jobs() == {}
    for n in range(5):
        record(f"7_{n}", Work(FIRST, f"print-{n}", "train"))
    queue.write_text("6 RUNNING\n7_0 PENDING\n7_1 RUNNING\n7_2 REQUEUED\n7_3 COMPLETING\n70_4 RUNNING\n")
    found = [(job.fingerprint, job.id, job.activity) for job in cluster_jobs().values()]
    activities = ("queued", "running", "queued", "running")
    assert found == [(f"print-{n}", f"7_{n}", activity) for n, activity in enumerate(activities)]


def test_a_result_that_a_shared_folder_shows_late_counts(plan: Plan, shell: Callable[..., Any], queue: Path) -> None:
    """The cluster's job is over at once, and its files are here a second later."""
    place = shell(f"sleep 0.7; {FINISH}", slurm=True)
    assert drive(plan, [work(FIRST)], place, AGAIN) == {}
    assert place.submitted == [FIRST]
    assert not record_of("1").exists()
