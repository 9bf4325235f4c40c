"""The driver of many runs with jobs that are real processes, though they train nothing: a few lines of shell each."""

import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from made_up_runs import plan_text, result
from project import ROOT

from pipeline.artifacts import SCRATCH
from pipeline.errors import StoppedError
from pipeline.params import PARAMS, Plan
from pipeline.runner.attempts import evaluated, trained
from pipeline.runner.job_driver import drive
from pipeline.runner.jobs import Job, Slot, Slots, Work
from pipeline.runner.params_file import parse_plan

RUNS = [f"run-{seed}" for seed in range(1, 9)]
AGAIN = "wrn-pipe repro --jobs 2"
JOB = """#!/bin/sh
run=$3
echo >> "tried.$run"
attempt=$(wc -l < "tried.$run")
read trained evaluated < "places.$run"
test "$attempt" -lt 6 || { mkdir -p "$trained" "$evaluated"; exit 0; }
"""
"""Stands in for Python, and so for the training that it starts. That its sixth attempt ends well is for a driver that
never gives up: it is to fail its test, not to hold it up."""
FINISH = 'mkdir -p "$trained" "$evaluated"\n'
FAIL = "echo the disk is on fire; exit 1\n"


@pytest.fixture
def plan(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Plan:
    """Some runs; the current folder is a repository's as far as the driver looks at one."""
    shutil.copyfile(ROOT / "dvc.yaml", tmp_path / "dvc.yaml")
    monkeypatch.chdir(tmp_path)
    return parse_plan(plan_text([result(700, seed=seed, run=run) for seed, run in enumerate(RUNS, 1)]), PARAMS)


def work(run: str, stage: str = "train") -> Work:
    return Work(run, f"print-of-{run}", "train" if stage == "train" else "evaluate")


@dataclass
class Noting(Slots):
    submitted: list[str] = field(default_factory=list)
    """The run of each job so far."""

    def submit(self, works: Sequence[Work]) -> list[Job]:
        assert len(works) <= self.free()
        self.submitted += [each.run for each in works]
        return super().submit(works)


@pytest.fixture
def two_slots(plan: Plan, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[str], Noting]]:
    """Makes places whose jobs do what a script says; what still runs ends with the test."""
    place = Noting([Slot(None, ()), Slot(None, ())])
    for run in RUNS:
        made = trained(work(run).fingerprint), evaluated(plan, run, work(run).fingerprint)
        Path(f"places.{run}").write_text(" ".join(map(str, made)) + "\n")

    def doing(script: str) -> Noting:
        python = tmp_path / "python"
        python.write_text(JOB + script)
        python.chmod(0o755)
        monkeypatch.setattr(sys, "executable", str(python))
        return place

    yield doing
    for process in processes(place):
        process.kill()
        process.wait()


def processes(place: Slots) -> "list[subprocess.Popen[bytes]]":
    return [slot.process for slot in place.slots if slot.process]


def fail(stage: str, code: int) -> str:
    """Shell for a job that leaves a failure record, as the real one does."""
    record = json.dumps({"exit_code": code, "what": "its record", "remedy": "none"})
    return f"mkdir -p scratch/failures; echo '{record}' > scratch/failures/{stage}@$run.json; exit {code}\n"


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


def test_what_is_tried_again_and_what_is_not(plan: Plan, two_slots: Callable[[str], Noting]) -> None:
    runs = dict(zip(RUNS, ENDS.values(), strict=True))
    cases = [f"{run})\n{script};;" for run, (script, _, _) in runs.items()]
    place = two_slots("\n".join(["case $run in", *cases, "esac"]))
    failures_folder = Path("scratch/failures")
    failures_folder.mkdir(parents=True)
    for run in runs:  # of an earlier attempt: a job that is killed leaves none
        for stage in ("train", "evaluate"):
            text = '{"exit_code": 2, "what": "of yesterday", "remedy": null}'
            (failures_folder / f"{stage}@{run}.json").write_text(text)
    failures = drive(plan, [work(run) for run in runs], place, AGAIN)
    assert set(place.submitted[: len(runs)]) == set(runs), "others come before a second attempt"
    for run, (_, attempts, why) in runs.items():
        said, of = failures.get(run), work(run)
        assert place.submitted.count(run) == attempts, run
        assert (said is None) == (why is None), run
        assert (trained(of.fingerprint).is_dir() and evaluated(plan, run, of.fingerprint).is_dir()) == (why is None)
        assert said is None or why in said


def test_what_an_earlier_job_made_is_not_made_again(plan: Plan, two_slots: Callable[[str], Noting]) -> None:
    """All of it; who has trained but not evaluated goes on, and so does who was evaluated by code edited since."""
    whole, half, evaluation, edited = work(RUNS[0]), work(RUNS[1]), work(RUNS[2], "evaluate"), work(RUNS[3])
    for each in (whole, evaluation):
        evaluated(plan, each.run, each.fingerprint).mkdir(parents=True)
    for each in (whole, half, edited):
        trained(each.fingerprint).mkdir(parents=True)
    (SCRATCH / edited.fingerprint / "evaluated-0123456789abcdef").mkdir()
    place = two_slots(FINISH)
    assert drive(plan, [whole, half, evaluation, edited], place, AGAIN) == {}
    assert sorted(place.submitted) == [RUNS[1], RUNS[3]]


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
    signals: int, plan: Plan, two_slots: Callable[[str], Noting]
) -> None:
    place = two_slots(WAIT_FOR_TERM.replace("PAUSE", "1" if signals == 1 else "600"))
    ready = [Path(f"{RUNS[0]}.ready"), Path(f"{RUNS[0]}.told")][:signals]
    with signalled_when(*ready), pytest.raises(StoppedError) as stopped:
        drive(plan, [work(RUNS[0])], place, AGAIN)
    assert stopped.value.exit_code == 143
    kept = "nothing is lost" if signals == 1 else "their last saved states are kept"
    assert f"stopped 1 training, {kept}" in stopped.value.what
    assert AGAIN in stopped.value.remedy
    assert Path(f"{RUNS[0]}.saved").exists() == (signals == 1)
    assert [process.wait() for process in processes(place)] == [143 if signals == 1 else -signal.SIGTERM]
