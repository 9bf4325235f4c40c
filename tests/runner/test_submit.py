"""Where jobs run: slots of this machine and the GPUs they show, and whether a cluster answers."""

import os
import signal
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from pipeline.errors import UserError, WrnPipeError
from pipeline.runner import submit
from pipeline.runner.job import RECORDS, Work
from pipeline.runner.submit import Attempt, Slots, Slurm, minutes, need_slurm, slots, visible_gpus


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


TRAINING = """#!/bin/sh
printf "%s" "$CUDA_VISIBLE_DEVICES" > seen
taskset -cp $$ > cores
echo $OMP_NUM_THREADS > threads
ps -o sid= -p $$ > session
end() { touch saved; exit 143; }
trap end TERM
touch ready
for _ in $(seq $WAITS); do sleep 0.1; done
"""


@pytest.fixture
def training(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Work:
    """A script stands in for Python, and so for the training that it starts."""
    script = tmp_path / "python"
    script.write_text(TRAINING)
    script.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(script))
    monkeypatch.setenv("WAITS", "0")
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


def test_a_clusters_job_whose_time_is_over_saves_and_is_submitted_again(
    training: Work, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As submitit does it on a node: the signal before the end, then `checkpoint`. The training itself ignores it."""
    monkeypatch.setenv("WAITS", "600")
    monkeypatch.setattr(submit, "_PATIENCE_S", 0.0)
    record = Path("scratch/failures/train@run.json")
    record.parent.mkdir(parents=True)
    record.touch()
    attempt = Attempt(training)
    again = []

    def over() -> None:
        while not Path("ready").exists():
            time.sleep(0.02)
        os.kill(os.getpid(), signal.SIGUSR2)

    before = signal.signal(signal.SIGUSR2, lambda *_: again.append(attempt.checkpoint()))
    thread = threading.Thread(target=over)
    thread.start()
    try:
        with pytest.raises(RuntimeError, match="exit code 143"):
            attempt()
    finally:
        thread.join()
        signal.signal(signal.SIGUSR2, before)
    assert [submission.function for submission in again] == [attempt]
    assert Path("saved").exists()
    assert not record.exists(), "that it was stopped is not the answer any more"


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
    for name, script in (("sbatch", SBATCH.format(folder=tmp_path)), ("srun", "#!/bin/sh\n")):
        (programs / name).write_text(script)
        (programs / name).chmod(0o755)
    monkeypatch.setenv("PATH", str(programs), prepend=os.pathsep)
    monkeypatch.chdir(tmp_path)
    return lambda: [path.read_text() for path in sorted((tmp_path / "submitted").iterdir(), key=lambda p: int(p.name))]


def options(script: str) -> set[str]:
    return {line.removeprefix("#SBATCH ") for line in script.splitlines() if line.startswith("#SBATCH ")}


def works(count: int) -> list[Work]:
    return [Work(f"run-{number}", f"print-{number}", "train") for number in range(count)]


def test_a_cluster_is_told_what_was_asked_for_and_puts_jobs_back(sbatch: Callable[[], list[str]]) -> None:
    place = Slurm(90, 2, "gpu", gpus=1, cpus=3, options=(("comment", "ours"), ("qos", "low")))
    jobs = place.submit(works(3))
    assert [(job.run, job.fingerprint, job.id, job.slurm) for job in jobs] == [
        (f"run-{number}", f"print-{number}", f"7_{number}", True) for number in range(3)
    ]
    assert len(list(RECORDS.glob("7_*_submitted.pkl"))) == 3
    (script,) = sbatch()
    assert options(script) >= {
        *("--requeue", "--open-mode=append", "--array=0-2%2", "--time=90", "--partition=gpu", "--gpus-per-node=1"),
        *("--cpus-per-task=3", "--comment=ours", "--qos=low", "--signal=USR2@120"),
    }
    assert len({job.log for job in jobs}) == 3
    assert not any(Path(job.log).is_absolute() for job in jobs)


def test_what_runs_at_the_same_time_is_divided_among_arrays(sbatch: Callable[[], list[str]]) -> None:
    """Slurm's arrays have at most a thousand jobs, and a limit each."""
    jobs = Slurm(90, 5).submit(works(1002))
    first, second = map(options, sbatch())
    assert "--array=0-999%2" in first
    assert "--array=0-1%2" in second
    assert [job.id for job in jobs] == [*(f"7_{number}" for number in range(1000)), "8_0", "8_1"]
    assert [job.run for job in jobs] == [work.run for work in works(1002)]
    Slurm(90, 1).submit(works(1002))
    assert [option for script in sbatch()[2:] for option in options(script) if option.startswith("--array")] == [
        "--array=0-999%1",
        "--array=0-1%1",
    ]


def test_a_single_job_is_put_back_as_well(sbatch: Callable[[], list[str]]) -> None:
    (job,) = Slurm(90, 5).submit(works(1))
    (script,) = sbatch()
    assert job.id == "7"
    assert "--requeue" in options(script)
    assert not any(option.startswith(("--array", "--partition", "--gpus")) for option in options(script))


def test_an_evaluation_alone_is_one_stage() -> None:
    assert Work("r", "p", "train").stages == ["train@r", "evaluate@r"]
    assert Work("r", "p", "evaluate").stages == ["evaluate@r"]


@pytest.mark.parametrize(("text", "expected"), [("4m", 4), ("8h", 480), ("90m", 90), ("1d12h", 2160), ("2d1h5m", 2945)])
def test_times(text: str, expected: int) -> None:
    assert minutes(text) == expected


@pytest.mark.parametrize("text", ["", "8", "h", "8 h", "3m", "1h1d", "-8h"])
def test_invalid_times(text: str) -> None:
    with pytest.raises(UserError, match="--time"):
        minutes(text)
