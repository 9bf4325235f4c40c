"""Where jobs run: slots of this machine and the GPUs they show, and whether a cluster answers."""

import os
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from pipeline.cli.repro import _place
from pipeline.errors import UserError, WrnPipeError
from pipeline.runner.job import RECORDS, Work
from pipeline.runner.submit import Slots, Slurm, minutes, need_slurm, slots, visible_gpus


@pytest.mark.parametrize(
    ("named", "count", "expected"),
    [("", 2, ["0", "1"]), ("2, 3", 2, ["2", "3"]), ("GPU-a1,MIG-b2", 2, ["GPU-a1", "MIG-b2"]), ("3,-1,2", 1, ["3"])],
)
def test_jobs_keep_to_the_gpus_that_the_user_shows(
    named: str, count: int, expected: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("torch.cuda.device_count", lambda: count)
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
    ((_, process),) = place.taken.values()
    assert process.wait() == 0
    assert place.free() == 1
    assert Path("seen").read_text() == seen
    if not gpus:
        assert Path("cores").read_text().split()[-1] == str(*shared[0].cores)
        assert Path("threads").read_text() == "1\n"
    assert int(Path("session").read_text()) != os.getsid(0)


def test_a_cluster_that_does_not_answer_is_told_before_any_work(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("sbatch", "squeue", "srun"):
        (tmp_path / name).write_text("#!/bin/sh\necho 'Unable to contact slurm controller' >&2\nexit 1\n")
        (tmp_path / name).chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    with pytest.raises(WrnPipeError, match="squeue: Unable to contact slurm controller"):
        need_slurm()


SBATCH = """#!/bin/sh
mkdir -p {folder}/submitted
job=$(($(ls {folder}/submitted | wc -l) + 7))
cp "$1" {folder}/submitted/$job
echo "Submitted batch job $job"
"""


@pytest.fixture
def sbatch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[], list[str]]:
    """A stand-in for Slurm's, which gives out ids from 7 on; the scripts that it was given so far."""
    programs = tmp_path / "programs"
    programs.mkdir()
    for name in ("sbatch", "srun", "squeue"):
        script = SBATCH.format(folder=tmp_path) if name == "sbatch" else "#!/bin/sh\n"
        (programs / name).write_text(script)
        (programs / name).chmod(0o755)
    monkeypatch.setenv("PATH", str(programs), prepend=os.pathsep)
    monkeypatch.chdir(tmp_path)
    return lambda: [path.read_text() for path in sorted((tmp_path / "submitted").iterdir(), key=lambda p: int(p.name))]


def told_sbatch(script: str) -> set[str]:
    return {line.removeprefix("#SBATCH ") for line in script.splitlines() if line.startswith("#SBATCH ")}


def works(count: int) -> list[Work]:
    return [Work(f"run-{number}", f"print-{number}", "train") for number in range(count)]


def test_a_cluster_is_told_what_was_asked_for_and_puts_jobs_back(sbatch: Callable[[], list[str]]) -> None:
    """Slurm's arrays have at most a thousand jobs, and a limit each: what runs at the same time is divided."""
    options = {"partition": "gpu", "gpus": 1, "cpus": 3, "sbatch": ["comment=ours", "qos=low"]}
    place = _place(None, slurm=True, time="90m", max_jobs=5, **options)
    assert place is not None
    jobs = place.submit(works(1002))
    told = {
        *("--requeue", "--open-mode=append", "--time=90", "--partition=gpu", "--gpus-per-node=1"),
        *("--cpus-per-task=3", "--comment=ours", "--qos=low", "--signal=USR2@120"),
    }
    first, second = map(told_sbatch, sbatch())
    assert first >= {*told, "--array=0-999%2"}
    assert second >= {*told, "--array=0-1%2"}
    assert [job.id for job in jobs] == [*(f"7_{number}" for number in range(1000)), "8_0", "8_1"]
    assert [(job.run, job.fingerprint) for job in jobs] == [(work.run, work.fingerprint) for work in works(1002)]
    assert len(list(RECORDS.glob("*_submitted.pkl"))) == len({job.log for job in jobs}) == 1002
    assert not any(Path(job.log).is_absolute() for job in jobs)
    (single,) = Slurm(1, {"additional_parameters": {"requeue": True}}).submit(works(1))
    assert single.id == "9"
    assert "--requeue" in told_sbatch(sbatch()[2])
    assert not any(option.startswith(("--array", "--partition", "--gpus")) for option in told_sbatch(sbatch()[2]))


@pytest.mark.parametrize(("text", "expected"), [("4m", 4), ("8h", 480), ("1d12h", 2160), ("2d1h5m", 2945)])
def test_times(text: str, expected: int) -> None:
    assert minutes(text) == expected


@pytest.mark.parametrize("text", ["", "8", "h", "8 h", "3m", "1h1d", "-8h"])
def test_invalid_times(text: str) -> None:
    with pytest.raises(UserError, match="--time"):
        minutes(text)
