"""The driver of many runs with jobs that are real processes, though they train nothing: a few lines of shell each."""

import json
import os
import platform
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

import psutil
import pytest
from made_up_runs import plan_text, result
from project import ROOT, copy_repository

from pipeline.errors import StoppedError
from pipeline.params import PARAMS, Plan
from pipeline.runner.job import SCRATCH, evaluated, trained
from pipeline.runner.job_driver import work_off
from pipeline.runner.jobs import JOBS, Job, System, at_work, forget, note, noted
from pipeline.runner.params_file import parse_plan
from pipeline.runner.run_lock import hold
from pipeline.runner.submit import Slots, Work, slots

RUNS = [result(700, seed=seed) for seed in (1, 2, 3, 4)]
FIRST, SECOND, THIRD, FOURTH = (run.run for run in RUNS)
AGAIN = "wrn-pipe repro --jobs 2"
FINISH = 'mkdir -p "$trained" "$evaluated"\n'
FAIL = "echo the disk is on fire; exit 1\n"
SLURM_ID = 90_000_000
"""Jobs of the stand-in cluster have higher ids, which no process of this machine has."""
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
    """A place whose jobs are processes of `sh`, `width` of them at once."""

    plan: Plan
    script: str
    """Of every job; $run, $attempt, $stage, and where it leaves its results: $trained and $evaluated."""
    width: int = 2
    system: System = "local"
    submitted: list[tuple[str, int]] = field(default_factory=list)
    """Run and attempt of each job so far."""
    processes: "list[subprocess.Popen[bytes]]" = field(default_factory=list)

    def free(self) -> int:
        return self.width - sum(process.poll() is None for process in self.processes)

    def submit(self, works: Sequence[Work], attempt: int) -> list[Job]:
        assert len(works) <= self.free()
        return [self.start(each, attempt) for each in works]

    def start(self, of: Work, attempt: int) -> Job:
        log = Path(f"{of.run}-{attempt}.log")
        told = {"run": of.run, "attempt": str(attempt), "stage": of.stage}
        places = {"trained": trained(of.fingerprint), "evaluated": evaluated(self.plan, of.run, of.fingerprint)}
        with log.open("w") as file:
            process = subprocess.Popen(
                ["sh", "-c", self.script],
                env={**os.environ, **told, **{name: str(path) for name, path in places.items()}},
                stdout=file,
                stderr=file,
            )
        self.submitted.append((of.run, attempt))
        self.processes.append(process)
        started = psutil.Process(process.pid).create_time()
        number = str(SLURM_ID + len(self.submitted)) if self.system == "slurm" else str(process.pid)
        return Job(of.run, of.fingerprint, of.stage, self.system, number, started, platform.node(), str(log), attempt)


@pytest.fixture
def shell(plan: Plan) -> Iterator[Callable[..., Shell]]:
    """Makes places whose processes end with the test."""
    made: list[Shell] = []

    def place(script: str, **settings: Any) -> Shell:
        made.append(Shell(**{"plan": plan, "script": script, **settings}))
        return made[-1]

    yield place
    for process in (process for each in made for process in each.processes):
        process.kill()
        process.wait()


def say_last_words(stage: str, code: int) -> str:
    """Shell for a job that ends with last words, as the real one does."""
    words = json.dumps({"exit_code": code, "what": "its last words", "remedy": "none"})
    return f"mkdir -p scratch/last-words; echo '{words}' > scratch/last-words/{stage}@$run.json; exit {code}\n"


def made(plan: Plan, of: Work) -> bool:
    return trained(of.fingerprint).is_dir() and evaluated(plan, of.run, of.fingerprint).is_dir()


def test_a_run_that_fails_is_tried_three_times_after_the_others_and_named(
    plan: Plan, shell: Callable[..., Shell]
) -> None:
    place = shell(f'test "$run" = {FIRST} || {{ {FINISH} exit 0; }}\n{ENOUGH}{FAIL}', width=1)
    works = [work(run) for run in (FIRST, SECOND, THIRD)]
    failures = work_off(plan, works, place, AGAIN)
    assert [failure.run for failure in failures] == [FIRST]
    assert "the disk is on fire" in failures[0].why
    assert "the disk is on fire" in Path(failures[0].log).read_text()
    assert place.submitted == [(FIRST, 1), (SECOND, 1), (THIRD, 1), (FIRST, 2), (FIRST, 3)]
    assert all(made(plan, each) for each in works[1:])
    assert noted() == {}


# What the jobs of a run do -> how many there are, and what is said of the run; None once it is made.
ENDS: dict[str, tuple[str, int, str | None]] = {
    "a mistake": (say_last_words("train", 2), 1, "its last words"),
    "stopped while it trained": (say_last_words("train", 130), 1, "its last words"),
    "stopped while it evaluated": (say_last_words("evaluate", 143), 1, "its last words"),
    "an error, three times": (say_last_words("evaluate", 1), 3, "its last words"),
    "killed, three times": ("echo begun; kill -9 $$\n", 3, "begun"),
    "an error, twice": (f'test "$attempt" = 3 || {{ {FAIL} }}\n{FINISH}', 3, None),
    "trained, not evaluated": (f'mkdir -p "$trained"; test "$attempt" = 1 || {{ {FINISH} }}\n', 2, None),
    "evaluated, training lost": (f'mkdir -p "$evaluated"; test "$attempt" = 1 || {{ {FINISH} }}\n', 2, None),
}


def test_what_is_tried_again_and_what_is_not(shell: Callable[..., Shell]) -> None:
    runs = {f"run-{seed}": end for seed, end in enumerate(ENDS.values(), 1)}
    plan = parse_plan(plan_text([result(700, seed=int(run[4:]), run=run) for run in runs]), PARAMS)
    cases = [f"{run})\n{ENOUGH}{script};;" for run, (script, _, _) in runs.items()]
    place = shell("\n".join(["case $run in", *cases, "esac"]), width=len(runs), plan=plan)
    for run in runs:  # who is killed says nothing, and these are not its last words
        say_yesterday(run)
    failures = {failure.run: failure.why for failure in work_off(plan, [work(run) for run in runs], place, AGAIN)}
    found = {run: (sum(each == run for each, _ in place.submitted), failures.get(run)) for run in runs}
    for run, (_, attempts, why) in runs.items():
        said = found[run][1]
        assert found[run][0] == attempts, run
        assert (said is None) == (why is None), run
        assert made(plan, work(run)) == (why is None)
        assert said is None or why in said


def say_yesterday(run: str) -> None:
    said = Path("scratch/last-words")
    said.mkdir(parents=True, exist_ok=True)
    for stage in ("train", "evaluate"):
        (said / f"{stage}@{run}.json").write_text('{"exit_code": 2, "what": "of yesterday", "remedy": null}')


def test_what_an_earlier_job_made_is_not_made_again(plan: Plan, shell: Callable[..., Shell]) -> None:
    """All of it; who has trained but not evaluated goes on, and so does who was evaluated by code edited since."""
    whole, half, evaluation, edited = work(FIRST), work(SECOND), work(THIRD, "evaluate"), work(FOURTH)
    for each in (whole, evaluation):
        evaluated(plan, each.run, each.fingerprint).mkdir(parents=True)
    for each in (whole, half, edited):
        trained(each.fingerprint).mkdir(parents=True)
    (SCRATCH / edited.fingerprint / "evaluated-0123456789abcdef").mkdir()
    place = shell(FINISH)
    assert work_off(plan, [whole, half, evaluation, edited], place, AGAIN) == []
    assert sorted(place.submitted) == [(SECOND, 1), (FOURTH, 1)]


def test_an_evaluation_needs_no_training_in_scratch(plan: Plan, shell: Callable[..., Shell]) -> None:
    place = shell('test "$stage" = evaluate && mkdir -p "$evaluated"\n')
    assert work_off(plan, [work(FIRST, "evaluate")], place, AGAIN) == []
    assert place.submitted == [(FIRST, 1)]


def test_a_job_of_an_earlier_driver_is_waited_for(plan: Plan, shell: Callable[..., Shell]) -> None:
    earlier = shell(f"sleep 0.7; {FINISH}")
    note(earlier.start(work(FIRST), 1))
    threading.Thread(target=earlier.processes[0].wait).start()
    place = shell(FINISH)
    assert work_off(plan, [work(FIRST), work(SECOND)], place, AGAIN) == []
    assert place.submitted == [(SECOND, 1)]
    assert made(plan, work(FIRST))
    assert noted() == {}


@contextmanager
def trained_by_hand(of: Work, then: Callable[[], object]) -> Iterator[None]:
    """Somebody else trains the run, from before the block until a little later, and at the end does `then`."""
    begun = threading.Event()

    def train() -> None:
        with hold(SCRATCH / of.fingerprint, of.run):
            begun.set()
            time.sleep(0.7)
            then()

    thread = threading.Thread(target=train)
    thread.start()
    try:
        assert begun.wait(60)
        yield
    finally:
        thread.join()


def test_runs_that_somebody_trains_by_hand_are_waited_for_and_take_slots(
    plan: Plan, shell: Callable[..., Shell]
) -> None:
    """The first is made, the third left unfinished."""
    first, second, third = work(FIRST), work(SECOND), work(THIRD)
    place = shell(f"ls scratch; {FINISH}", width=2)

    def finish() -> None:
        for folder in (trained(first.fingerprint), evaluated(plan, first.run, first.fingerprint)):
            folder.mkdir(parents=True)

    with trained_by_hand(first, finish), trained_by_hand(third, lambda: None):
        assert work_off(plan, [first, second, third], place, AGAIN) == []
    assert sorted(place.submitted) == [(SECOND, 1), (THIRD, 1)]
    there = Path(f"{SECOND}-1.log").read_text()
    assert not all(f"{each.fingerprint}.holder.json" in there for each in (first, third))


WAIT_FOR_TERM = f"""
end() {{ touch "$run.saved"; {say_last_words("train", 143)} }}
trap end TERM
touch "$run.ready"
for _ in $(seq 600); do sleep 0.1; done
"""


@contextmanager
def signalled_when(ready: Callable[[], bool]) -> Iterator[None]:
    """This process gets SIGTERM, once, when `ready`."""

    def send() -> None:
        while not ready() and not over.is_set():
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


def test_a_driver_that_is_told_to_end_lets_its_trainings_save(plan: Plan, shell: Callable[..., Shell]) -> None:
    Path("pipeline.runner.job").write_text(WAIT_FOR_TERM)  # by its command line a training as the driver knows it
    place = shell("sh pipeline.runner.job\nexit $?\n")
    with signalled_when(Path(f"{FIRST}.ready").exists), pytest.raises(StoppedError) as stopped:
        work_off(plan, [work(FIRST)], place, AGAIN)
    assert stopped.value.exit_code == 143
    assert "stopped 1 training, nothing is lost" in stopped.value.what
    assert AGAIN in stopped.value.remedy
    assert Path(f"{FIRST}.saved").exists()
    assert [process.wait() for process in place.processes] == [143]
    assert noted() == {}


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


def test_what_jobs_do_is_told_by_the_cluster_and_by_processes(
    plan: Plan, shell: Callable[..., Shell], queue: Path
) -> None:
    cluster = [Job(FIRST, f"print-{n}", "train", "slurm", f"7_{n}", 0.0, "login", "log", 1) for n in range(5)]
    queue.write_text("7_0 PENDING\n7_1 RUNNING\n7_2 REQUEUED\n7_3 COMPLETING\n70_4 RUNNING\n")
    local = shell("sleep 60").start(work(SECOND), 1)
    over = shell("exit 0").start(work(THIRD), 1)
    while psutil.Process(int(over.id)).status() != psutil.STATUS_ZOMBIE:  # nobody has waited for it yet
        time.sleep(0.01)
    strangers = [
        over,
        Job(**{**vars(local), "fingerprint": "another start", "started": local.started - 60}),
        Job(**{**vars(local), "fingerprint": "another host", "host": f"not-{local.host}"}),
    ]
    assert at_work([*cluster, local, *strangers]) == {
        "print-0": "queued",
        "print-1": "running",
        "print-2": "queued",
        "print-3": "running",
        local.fingerprint: "running",
    }


def test_notes_are_one_a_run_and_a_torn_one_is_passed_over(plan: Plan) -> None:
    jobs = [Job(FIRST, "print", "train", "slurm", str(n), 0.0, "login", "log", n) for n in (1, 2)]
    for job in jobs:
        note(job)
    (JOBS / "torn.json").write_text('{"run": ')
    assert noted() == {"print": jobs[1]}
    forget("print")
    forget("print")
    assert noted() == {}


def test_a_result_that_a_shared_folder_shows_late_counts(plan: Plan, shell: Callable[..., Shell], queue: Path) -> None:
    """The cluster's job is over at once, and its files are here a second later."""
    place = shell(f"sleep 0.7; {FINISH}", system="slurm")
    assert work_off(plan, [work(FIRST)], place, AGAIN) == []
    assert place.submitted == [(FIRST, 1)]


UNTIL_GO = "for _ in $(seq 300); do test -e go && break; sleep 0.1; done\n"


def test_a_driver_that_ends_leaves_the_clusters_jobs_to_the_next_one(
    plan: Plan, shell: Callable[..., Shell], queue: Path
) -> None:
    queue.write_text(f"{SLURM_ID + 1} RUNNING\n")
    place = shell(f"touch ready\n{UNTIL_GO}{FINISH}: > {queue}", system="slurm")
    with signalled_when(Path("ready").exists), pytest.raises(StoppedError) as stopped:
        work_off(plan, [work(FIRST)], place, AGAIN)
    assert "1 job of the cluster go on without this driver" in stopped.value.what
    assert f"scancel {SLURM_ID + 1})" in stopped.value.remedy
    assert AGAIN in stopped.value.remedy
    assert place.processes[0].poll() is None
    over = threading.Timer(0.7, Path("go").touch)
    over.start()
    following = shell(FINISH, system="slurm")
    assert work_off(plan, [work(FIRST)], following, AGAIN) == []
    over.join()
    assert following.submitted == []
    assert made(plan, work(FIRST))


@pytest.fixture
def trainings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], Plan]:
    """A repository whose jobs, started by the real submitit, run a script of shell in place of a training."""
    project = copy_repository(tmp_path / "project")

    def put(script: str) -> Plan:
        module = project.root / "pipeline/runner/job.py"
        ours = (
            'if __name__ == "__main__":\n    import os, sys\n\n    os.execvp("sh", ["sh", "job.sh", *sys.argv[1:]])\n'
        )
        module.write_text(ours + module.read_text())
        made = parse_plan(plan_text(RUNS), PARAMS)
        monkeypatch.chdir(project.root)
        lines = ["run=$1 trained=scratch/$2/trained stage=$3", "case $run in"]
        lines += [f"{each.run}) evaluated={evaluated(made, each.run, work(each.run).fingerprint)};;" for each in RUNS]
        (project.root / "job.sh").write_text("\n".join([*lines, "esac", f"echo $run >> begun\n{script}"]))
        return made

    return put


def cores(line: str) -> set[int]:
    """Of a line such as `Cpus_allowed_list: 0-3,8`."""
    ranges = [part.split("-") for part in line.split(":")[1].strip().split(",")]
    return {core for ends in ranges for core in range(int(ends[0]), int(ends[-1]) + 1)}


def test_slots_try_again_what_failed_and_keep_each_job_to_its_cores(trainings: Callable[[str], Plan]) -> None:
    plan = trainings(
        "grep Cpus_allowed_list /proc/self/status >> $run.cores; echo $OMP_NUM_THREADS > $run.threads\n"
        f"test $run = {SECOND} -o -e $run.failed || {{ touch $run.failed; {FAIL} }}\n{FINISH}"
    )
    count = min(2, len(os.sched_getaffinity(0)))
    shared = slots(count, [])
    assert work_off(plan, [work(FIRST), work(SECOND)], Slots(shared), AGAIN) == []
    assert sorted(Path("begun").read_text().split()) == [FIRST, FIRST, SECOND]
    for run, slot in ((FIRST, shared[0]), (SECOND, shared[-1])):
        assert Path(f"{run}.threads").read_text() == f"{len(slot.cores)}\n"
        assert cores(Path(f"{run}.cores").read_text().splitlines()[0]) == set(slot.cores)
    assert made(plan, work(FIRST))
    assert made(plan, work(SECOND))


def test_a_job_whose_time_is_over_saves_and_begins_again(trainings: Callable[[str], Plan]) -> None:
    """submitit's signal, which its own process gets, as before the end of a job's time on a cluster."""
    plan = trainings(f"test -e $run.saved && {{ ls scratch/last-words > said; {FINISH} exit 0; }}\n{WAIT_FOR_TERM}")
    ready = Path(f"{FIRST}.ready")

    def end_its_time() -> None:
        while not ready.exists():
            time.sleep(0.05)
        (job,) = noted().values()
        (runner,) = psutil.Process(int(job.id)).children()
        runner.send_signal(signal.SIGUSR2)

    thread = threading.Thread(target=end_its_time)
    thread.start()
    assert work_off(plan, [work(FIRST)], Slots(slots(1, [])), AGAIN) == []
    thread.join()
    assert Path("begun").read_text().split() == [FIRST, FIRST]
    assert len(list(JOBS.glob("local/*_submitted.pkl"))) == 1
    assert Path("said").read_text() == "", "that it was stopped is not the answer any more"
