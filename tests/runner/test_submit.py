"""Where jobs run: slots of this machine and the GPUs they show, and whether a cluster answers."""

import os
import shutil
import sys
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace

import pytest
from made_up_runs import plan_text, result
from project import ROOT

from pipeline.cli.repro import _place
from pipeline.errors import UserError, WrnPipeError
from pipeline.params import PARAMS
from pipeline.runner.attempts import evaluated, trained
from pipeline.runner.job_driver import drive
from pipeline.runner.jobs import RECORDS, Slots, Slurm, Work, cluster_jobs, minutes, need_slurm, slots, visible_gpus
from pipeline.runner.params_file import parse_plan


@pytest.mark.parametrize(
    ("named", "count", "expected"),
    [("", 2, ["0", "1"]), ("2, 3", 2, ["2", "3"]), ("GPU-a1,MIG-b2", 2, ["GPU-a1", "MIG-b2"]), ("3,-1,2", 1, ["3"])],
)
def test_jobs_keep_to_the_gpus_that_the_user_shows(
    named: str, count: int, expected: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "torch", SimpleNamespace(cuda=SimpleNamespace(device_count=lambda: count)))
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", named)
    assert visible_gpus() == expected
    assert [slot.gpu for slot in slots(len(expected) + 1, expected)] == [*expected, expected[0]]


TRAINING = """#!/bin/sh
printf "%s" "$CUDA_VISIBLE_DEVICES" > seen
taskset -cp $$ > cores
echo $OMP_NUM_THREADS > threads
ps -o sid= -p $$ > session
"""


@pytest.fixture
def training(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Work:
    """A script stands in for Python, and so for the training that it starts."""
    script = tmp_path / "python"
    script.write_text(TRAINING)
    script.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(script))
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "as it was")
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    monkeypatch.chdir(tmp_path)
    return Work("run", "fingerprint", "train")


@pytest.mark.parametrize(("gpus", "seen"), [(["GPU-a1"], "GPU-a1"), ([], "as it was")])
def test_a_training_has_the_gpu_or_the_cores_of_its_slot_and_no_signal_of_the_terminal(
    gpus: list[str], seen: str, training: Work
) -> None:
    """One that hears them and is then told by the driver would be told twice, and end at once."""
    shared = slots(len(os.sched_getaffinity(0)), gpus)[-1:]
    place = Slots(shared)
    place.submit([training])
    assert (process := shared[0].process)
    assert process.wait() == 0
    assert place.free() == 1
    assert Path("seen").read_text() == seen
    if not gpus:
        assert Path("cores").read_text().split()[-1] == str(*shared[0].cores)
        assert Path("threads").read_text() == "1\n"
    assert int(Path("session").read_text()) != os.getsid(0)


SBATCH = """#!/bin/sh
mkdir -p {folder}/submitted
job=$(($(ls {folder}/submitted | wc -l) + 7))
cp "$1" {folder}/submitted/$job
echo "Submitted batch job $job"
"""


@dataclass(frozen=True)
class Cluster:
    """Stand-ins for Slurm's programs; sbatch gives out ids from 7 on."""

    folder: Path

    def does(self, program: str, script: str) -> None:
        path = self.folder / "programs" / program
        path.write_text(f"#!/bin/sh\n{script}\n")
        path.chmod(0o755)

    def scripts(self) -> list[str]:
        """Those that sbatch was given so far."""
        folder = self.folder / "submitted"
        return [path.read_text() for path in sorted(folder.iterdir(), key=lambda path: int(path.name))]


@pytest.fixture
def cluster(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Cluster:
    (tmp_path / "programs").mkdir()
    made = Cluster(tmp_path)
    made.does("sbatch", SBATCH.format(folder=tmp_path))
    made.does("squeue", "")
    monkeypatch.setenv("PATH", str(tmp_path / "programs"), prepend=os.pathsep)
    monkeypatch.chdir(tmp_path)
    return made


def test_a_cluster_that_does_not_answer_is_told_before_any_work(cluster: Cluster) -> None:
    cluster.does("squeue", "echo 'Unable to contact slurm controller' >&2; exit 1")
    with pytest.raises(WrnPipeError, match="squeue: Unable to contact slurm controller"):
        need_slurm()


def test_the_cluster_says_what_its_jobs_do(cluster: Cluster) -> None:
    assert cluster_jobs() == {}
    Slurm(1, {}).submit(works(5))
    queue = "6 RUNNING\n7_0 PENDING\n7_1 RUNNING\n7_2 REQUEUED\n7_3 COMPLETING\n70_4 RUNNING"
    cluster.does("squeue", f"echo '{queue}'")
    found = [(job.fingerprint, job.id, job.activity) for job in cluster_jobs().values()]
    activities = ("queued", "running", "queued", "running")
    assert found == [(f"print-{n}", f"7_{n}", activity) for n, activity in enumerate(activities)]


def test_a_result_that_a_shared_folder_shows_late_counts(cluster: Cluster, monkeypatch: pytest.MonkeyPatch) -> None:
    """The cluster's job is over at once, and its files are here a second later."""
    shutil.copyfile(ROOT / "dvc.yaml", "dvc.yaml")
    plan = parse_plan(plan_text([result(700, run="run-0")]), PARAMS)
    made = trained("print-0"), evaluated(plan, "run-0", "print-0")
    late = f"(sleep 0.7; mkdir -p {' '.join(map(str, made))}) > /dev/null 2>&1 &"
    cluster.does("sbatch", f"{SBATCH.format(folder=cluster.folder)}\n{late}")
    monkeypatch.setattr(Slurm, "poll_s", 0.5)
    assert drive(plan, works(1), Slurm(1, {}), "again") == {}
    assert len(cluster.scripts()) == 1
    assert list(RECORDS.glob("*_submitted.pkl")) == []


def told_sbatch(script: str) -> set[str]:
    return {line.removeprefix("#SBATCH ") for line in script.splitlines() if line.startswith("#SBATCH ")}


def works(count: int) -> list[Work]:
    return [Work(f"run-{number}", f"print-{number}", "train") for number in range(count)]


def test_a_cluster_is_told_what_was_asked_for_and_puts_jobs_back(cluster: Cluster) -> None:
    """Slurm's arrays have at most a thousand jobs, and a limit each: what runs at the same time is divided."""
    options = {"partition": "gpu", "gpus": 1, "cpus": 3, "sbatch": ["comment=ours", "qos=low"]}
    place = _place(None, slurm=True, time="90m", max_jobs=5, **options)
    assert place is not None
    jobs = place.submit(works(1002))
    told = {
        *("--requeue", "--open-mode=append", "--time=90", "--partition=gpu", "--gpus-per-node=1"),
        *("--cpus-per-task=3", "--comment=ours", "--qos=low", "--signal=USR2@120"),
    }
    first, second = map(told_sbatch, cluster.scripts())
    assert first >= {*told, "--array=0-999%2"}
    assert second >= {*told, "--array=0-1%2"}
    assert [job.id for job in jobs] == [*(f"7_{number}" for number in range(1000)), "8_0", "8_1"]
    assert [(job.run, job.fingerprint) for job in jobs] == [(work.run, work.fingerprint) for work in works(1002)]
    assert len(list(RECORDS.glob("*_submitted.pkl"))) == len({job.log for job in jobs}) == 1002
    assert not any(Path(job.log).is_absolute() for job in jobs)
    (single,) = Slurm(1, {"additional_parameters": {"requeue": True}}).submit(works(1))
    assert single.id == "9"
    assert "--requeue" in told_sbatch(cluster.scripts()[2])
    assert not any(
        option.startswith(("--array", "--partition", "--gpus")) for option in told_sbatch(cluster.scripts()[2])
    )


@pytest.mark.parametrize(("text", "expected"), [("4m", 4), ("8h", 480), ("1d12h", 2160), ("2d1h5m", 2945)])
def test_times(text: str, expected: int) -> None:
    assert minutes(text) == expected


@pytest.mark.parametrize("text", ["", "8", "h", "8 h", "3m", "1h1d", "-8h"])
def test_invalid_times(text: str) -> None:
    with pytest.raises(UserError, match="--time"):
        minutes(text)
