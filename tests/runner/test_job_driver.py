"""The driver of many runs with jobs that are real processes, though they train nothing: a few lines of shell each; and
where these run: slots of this machine and the GPUs they show, or a cluster whose programs are scripts as well."""

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
from types import SimpleNamespace

import pytest
from made_up_runs import plan_text, result
from project import ROOT

from pipeline.artifacts import SCRATCH
from pipeline.cli.repro import _place
from pipeline.errors import StoppedError, UserError, WrnPipeError
from pipeline.params import PARAMS, Plan
from pipeline.runner import job_driver, jobs
from pipeline.runner.job_driver import drive
from pipeline.runner.jobs import RECORDS, Job, Slot, Slots, Slurm, Work, evaluated, trained
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
        executable(tmp_path / "python", JOB + script)
        monkeypatch.setattr(sys, "executable", str(tmp_path / "python"))
        return place

    yield doing
    for process in processes(place):
        process.kill()
        process.wait()


def executable(path: Path, script: str) -> None:
    path.write_text(script)
    path.chmod(0o755)


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


def test_a_job_of_an_earlier_driver_that_ends_while_it_is_looked_at_is_not_made_again(
    plan: Plan, two_slots: Callable[[str], Noting], monkeypatch: pytest.MonkeyPatch
) -> None:
    def ends_now(scratch: Path) -> None:
        for made in (trained(of.fingerprint), evaluated(plan, of.run, of.fingerprint)):
            made.mkdir(parents=True)

    of, place = work(RUNS[0]), two_slots(FAIL)
    monkeypatch.setattr(job_driver, "living_owner", ends_now)
    assert drive(plan, [of], place, AGAIN) == {}
    assert place.submitted == []


def test_what_jobs_made_is_put_where_dvc_looks_and_recorded(plan: Plan, monkeypatch: pytest.MonkeyPatch) -> None:
    whole, evaluation, recorded = work(RUNS[0]), work(RUNS[1], "evaluate"), list[str]()
    for each in (whole, evaluation):
        for made in (trained(each.fingerprint), evaluated(plan, each.run, each.fingerprint)):
            made.mkdir(parents=True)
            (made / "file").write_text(each.run)
    monkeypatch.setattr(job_driver, "record", recorded.extend)
    job_driver.publish(plan, [whole, evaluation])
    files = [path.as_posix() for path in sorted(Path().glob("*/run-*/file"))]
    assert files == ["evaluations/run-1/file", "evaluations/run-2/file", "models/run-1/file"]
    assert recorded == ["train@run-1", "evaluate@run-1", "evaluate@run-2"]
    assert not (SCRATCH / whole.fingerprint).exists()


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


@pytest.mark.parametrize(
    ("named", "count", "expected"),
    [("", 2, ["0", "1"]), ("2, 3", 2, ["2", "3"]), ("GPU-a1,MIG-b2", 2, ["GPU-a1", "MIG-b2"]), ("3,-1,2", 1, ["3"])],
)
def test_jobs_keep_to_the_gpus_that_the_user_shows(
    named: str, count: int, expected: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "torch", SimpleNamespace(cuda=SimpleNamespace(device_count=lambda: count)))
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", named)
    assert jobs.visible_gpus() == expected
    assert [slot.gpu for slot in jobs.slots(len(expected) + 1, expected)] == [*expected, expected[0]]
    with pytest.raises(UserError, match="--jobs 1000 on "):
        jobs.slots(1000, [])


SHOWING = """#!/bin/sh
printf "%s" "$CUDA_VISIBLE_DEVICES" > seen
taskset -cp $$ > cores
echo $OMP_NUM_THREADS > threads
ps -o sid= -p $$ > session
"""


@pytest.mark.parametrize(("gpus", "seen"), [(["GPU-a1"], "GPU-a1"), ([], "as it was")])
def test_a_training_has_the_gpu_or_the_cores_of_its_slot_and_no_signal_of_the_terminal(
    gpus: list[str], seen: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One that hears them and is then told by the driver would be told twice, and end at once."""
    executable(tmp_path / "python", SHOWING)
    monkeypatch.setattr(sys, "executable", str(tmp_path / "python"))
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "as it was")
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    monkeypatch.chdir(tmp_path)
    place = Slots(jobs.slots(len(os.sched_getaffinity(0)), gpus)[-1:])
    place.submit([work("run")])
    assert [process.wait() for process in processes(place)] == [0]
    assert place.free() == 1
    assert Path("seen").read_text() == seen
    if not gpus:
        assert Path("cores").read_text().split()[-1] == str(*place.slots[0].cores)
        assert Path("threads").read_text() == "1\n"
    assert int(Path("session").read_text()) != os.getsid(0)


SBATCH = """#!/bin/sh
mkdir -p {folder}/submitted
job=$(($(ls {folder}/submitted | wc -l) + 7))
cp "$1" {folder}/submitted/$job
echo "Submitted batch job $job"
"""


@pytest.fixture
def cluster(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str, str], None]:
    """Stand-ins for Slurm's programs, of which a test may have one do something else; sbatch gives out ids from 7 on,
    and keeps in the folder `submitted` what it is given."""

    def does(program: str, script: str) -> None:
        executable(tmp_path / "programs" / program, f"#!/bin/sh\n{script}\n")

    (tmp_path / "programs").mkdir()
    does("sbatch", SBATCH.format(folder=tmp_path))
    does("squeue", "")
    monkeypatch.setenv("PATH", str(tmp_path / "programs"), prepend=os.pathsep)
    monkeypatch.chdir(tmp_path)
    return does


def test_the_cluster_says_what_its_jobs_do_and_is_asked_before_any_work(
    cluster: Callable[[str, str], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert jobs.cluster_jobs() == {}
    Slurm(1, {}).submit([work(run) for run in RUNS[:4]])
    queue = "6 RUNNING\n7_0 PENDING\n7_1 RUNNING\n7_2 REQUEUED\n7_3 COMPLETING\n70_4 RUNNING"
    cluster("squeue", f"echo '{queue}'")
    found = {job.run: (job.id, job.activity) for job in jobs.cluster_jobs().values()}
    activities = ("queued", "running", "queued", "running")
    assert found == {run: (f"7_{n}", activities[n]) for n, run in enumerate(RUNS[:4])}
    cluster("squeue", "echo 'Unable to contact slurm controller' >&2; exit 1")
    with pytest.raises(WrnPipeError, match="squeue: Unable to contact slurm controller"):
        jobs.need_slurm()
    monkeypatch.setenv("PATH", "/nowhere")
    with pytest.raises(UserError, match="squeue, which lists the jobs of Slurm, was not found"):
        jobs.need_slurm()


def test_a_result_that_a_shared_folder_shows_late_counts(
    cluster: Callable[[str, str], None], plan: Plan, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The cluster's job is over at once, and its files are here a second later."""
    of = work(RUNS[0])
    made = f"{trained(of.fingerprint)} {evaluated(plan, of.run, of.fingerprint)}"
    cluster("sbatch", f"{SBATCH.format(folder=tmp_path)}\n(sleep 0.7; mkdir -p {made}) > /dev/null 2>&1 &")
    monkeypatch.setattr(Slurm, "poll_s", 0.5)
    assert drive(plan, [of], Slurm(1, {}), AGAIN) == {}
    assert len(list(Path("submitted").iterdir())) == 1
    assert list(RECORDS.glob("*_submitted.pkl")) == []


def told_sbatch(job: int) -> set[str]:
    lines = Path(f"submitted/{job}").read_text().splitlines()
    return {line.removeprefix("#SBATCH ") for line in lines if line.startswith("#SBATCH ")}


@pytest.mark.usefixtures("cluster")
def test_a_cluster_is_told_what_was_asked_for_and_puts_jobs_back() -> None:
    """Slurm's arrays have at most a thousand jobs, and a limit each: what runs at the same time is divided."""
    options = {"partition": "gpu", "gpus": 1, "sbatch": ["comment=ours", "qos=low"]}
    place = _place(None, True, 5, "90m", 3, options)
    assert place is not None
    submitted = place.submit([work(f"run-{number}") for number in range(1002)])
    told = {
        *("--requeue", "--open-mode=append", "--time=90", "--partition=gpu", "--gpus-per-node=1"),
        *("--cpus-per-task=3", "--comment=ours", "--qos=low", "--signal=USR2@120"),
    }
    assert told_sbatch(7) >= {*told, "--array=0-999%2"}
    assert told_sbatch(8) >= {*told, "--array=0-1%2"}
    assert [job.id for job in submitted] == [*(f"7_{number}" for number in range(1000)), "8_0", "8_1"]
    assert [job.fingerprint for job in submitted] == [work(f"run-{number}").fingerprint for number in range(1002)]
    assert len(list(RECORDS.glob("*_submitted.pkl"))) == len({job.log for job in submitted}) == 1002
    assert not any(Path(job.log).is_absolute() for job in submitted)
    (single,) = Slurm(1, {"additional_parameters": {"requeue": True}}).submit([work("run")])
    assert (single.id, "--requeue" in told_sbatch(9)) == ("9", True)
    assert not any(option.startswith(("--array", "--partition", "--gpus")) for option in told_sbatch(9))
    assert jobs.minutes("1d12h") == 2160
    with pytest.raises(UserError, match="--time 3m is too short"):
        jobs.minutes("3m")
