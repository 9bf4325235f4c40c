"""Where jobs run: slots of this machine and the GPUs they show, and whether a cluster answers."""

import os
import sys
from pathlib import Path

import pytest

from pipeline.errors import UserError, WrnPipeError
from pipeline.runner.attempt import Attempt
from pipeline.runner.submit import minutes, need_slurm, slots, visible_gpus


def test_slots_share_what_there_is() -> None:
    cores = os.sched_getaffinity(0)
    shared = [core for slot in slots(len(cores), []) for core in slot.cores]
    assert sorted(shared) == sorted(cores)
    assert [slot.gpu for slot in slots(5, ["2", "GPU-a1"])] == ["2", "GPU-a1", "2", "GPU-a1", "2"]
    with pytest.raises(UserError, match="cores"):
        slots(len(cores) + 1, [])


@pytest.mark.parametrize(
    ("named", "count", "expected"),
    [(None, 2, ["0", "1"]), ("2, 3", 2, ["2", "3"]), ("GPU-a1,MIG-b2", 2, ["GPU-a1", "MIG-b2"]), ("3,-1,2", 1, ["3"])],
)
def test_jobs_keep_to_the_gpus_that_the_user_shows(
    named: str | None, count: int, expected: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("torch.cuda.device_count", lambda: count)
    if named is None:
        monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    else:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", named)
    assert visible_gpus() == expected


@pytest.mark.parametrize(("gpu", "seen"), [("GPU-a1", "GPU-a1"), (None, "as it was")])
def test_a_training_sees_the_gpu_of_its_slot(
    gpu: str | None, seen: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tells = tmp_path / "python"
    tells.write_text(f'#!/bin/sh\nprintf "%s" "$CUDA_VISIBLE_DEVICES" > {tmp_path}/seen\n')
    tells.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(tells))
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "as it was")
    Attempt("run", "fingerprint", "train", (), gpu)()
    assert (tmp_path / "seen").read_text() == seen


@pytest.mark.parametrize(("system", "own"), [("local", True), ("slurm", False)])
def test_a_terminals_signals_are_for_the_driver_alone(
    system: str, own: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A training that hears them and is then told by the driver would be told twice, and end at once."""
    tells = tmp_path / "python"
    tells.write_text(f"#!/bin/sh\nps -o sid= -p $$ > {tmp_path}/session\nexit 143\n")
    tells.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(tells))
    monkeypatch.setattr("pipeline.runner.attempt._PATIENCE_S", 0.0)
    monkeypatch.setenv("SUBMITIT_EXECUTOR", system)
    monkeypatch.setenv("SLURM_JOB_ID", "7")
    with pytest.raises(RuntimeError, match="exit code 143"):
        Attempt("run", "fingerprint", "train")()
    assert (int((tmp_path / "session").read_text()) != os.getsid(0)) == own


def test_a_cluster_that_does_not_answer_is_told_before_any_work(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("sbatch", "squeue", "srun"):
        program = tmp_path / name
        program.write_text("#!/bin/sh\necho 'slurm_load_jobs error: Unable to contact slurm controller' >&2\nexit 1\n")
        program.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    with pytest.raises(WrnPipeError, match="squeue: slurm_load_jobs error: Unable to contact slurm controller"):
        need_slurm()


@pytest.mark.parametrize(("text", "expected"), [("8h", 480), ("90m", 90), ("1d12h", 2160), ("2d1h5m", 2945)])
def test_times(text: str, expected: int) -> None:
    assert minutes(text) == expected


@pytest.mark.parametrize("text", ["", "8", "h", "8 h", "3m", "1h1d", "-8h"])
def test_what_is_no_time(text: str) -> None:
    with pytest.raises(UserError, match="--time"):
        minutes(text)
