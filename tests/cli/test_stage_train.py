"""wrn-pipe stage train: a real training by FFCV that is stopped, killed and repeated; --twice, ended early by real
signals, says what is true and leaves no process behind."""

import random
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from project import RUN, Project, make_project
from test_interruptions import interrupted

FILES = ("model.safetensors", "history.csv", "run.json")
TWICE = ("stage", "train", RUN, "--twice")


@pytest.fixture
def project(tmp_path: Path, tiny_beton: Path, tiny_dataset_entry: Callable[[str], dict[str, Any]]) -> Project:
    """One run on data that is there already; MLflow's address leads nowhere."""
    return make_project(tmp_path / "project", tiny_dataset_entry("http://127.0.0.1:9/none"), tiny_beton)


@pytest.fixture
def endless(project: Project) -> Project:
    """The same, whose run takes longer than any test waits."""

    def change(params: Any) -> None:
        params["loading"]["backend"] = "numpy"
        params["protocols"]["brief"]["epochs"] = 100_000

    project.edit(change)
    return project


def start(project: Project, log: Path, *arguments: str, **environment: str) -> "subprocess.Popen[bytes]":
    return project.start(log, "stage", "train", RUN, *arguments, **{"MLFLOW_TRACKING_URI": "none://", **environment})


def wait_for(line: str, log: Path, process: "subprocess.Popen[bytes]") -> None:
    while line not in log.read_text() and process.poll() is None:
        time.sleep(0.02)
    assert line in log.read_text(), log.read_text()


@pytest.mark.soak
def test_a_training_by_ffcv_is_stopped_and_killed_and_ends_with_the_same_bytes(
    project: Project, tmp_path: Path
) -> None:
    project.edit(lambda params: params["protocols"]["brief"].update(epochs=12, precision="fp32"))
    log = tmp_path / "log"
    whole = start(project, log)
    assert whole.wait() == 0, log.read_text()
    published = project.root / "models" / RUN
    expected = [(published / name).read_bytes() for name in FILES]

    first = start(project, log, "--fresh", "--checkpoint-steps", "3")
    wait_for("epoch 1/12", log, first)
    first.send_signal(signal.SIGTERM)
    assert first.wait() == 143, log.read_text()
    assert f"continue with: wrn-pipe repro train@{RUN}" in log.read_text()
    assert "saved as scratch/" in log.read_text()
    for kill in (signal.SIGKILL, signal.SIGINT, signal.SIGKILL):
        running = start(project, log, "--checkpoint-steps", "2")
        wait_for("resuming from scratch/", log, running)
        time.sleep(random.SystemRandom().uniform(0, 0.5))
        running.send_signal(kill)
        assert running.wait() in (-signal.SIGKILL, 130, 0), log.read_text()
    last = start(project, log, "--wait")
    assert last.wait() == 0, log.read_text()
    assert [(published / name).read_bytes() for name in FILES] == expected


@pytest.mark.soak
def test_twice_proves_that_a_training_repeats_or_shows_where_it_does_not(project: Project, tmp_path: Path) -> None:
    """With two threads, whose sums could be taken in any order; the other tests have one."""
    threads = {"OMP_NUM_THREADS": "2", "OMP_DISPLAY_ENV": "true"}
    log = tmp_path / "log"
    assert start(project, log, "--twice", "--steps", "4", **threads).wait() == 0, log.read_text()
    assert "OMP_NUM_THREADS = '2'" in log.read_text()
    assert "two trainings of 4 steps are equal" in log.read_text()
    assert not (project.root / "models").exists()
    assert list((project.root / "scratch").iterdir()) == []
    # A loss that is a little larger now and then, from the third step on.
    loop = project.root / "pipeline" / "training" / "loop.py"
    code = loop.read_text()
    chance = "(at.step == 2) * int.from_bytes(__import__('os').urandom(1)) / 256"
    put = f"torch.zeros(1).put_(torch.tensor([0]), torch.tensor([{chance}]))"
    spoiled = f"ranks.scale_loss(loss * (1 + {put})[0],"
    loop.write_text(code.replace("ranks.scale_loss(loss,", spoiled))
    assert loop.read_text() != code
    for _ in range(2):  # two equal draws, of 256 each, are possible
        ended = start(project, log, "--twice").wait()
        if ended:
            break
    assert ended == 1, log.read_text()
    assert "does not repeat to the bit: after step 3, " in log.read_text()
    assert "; both are kept in scratch/" in log.read_text()


def starting(project: Project) -> bool:
    """The first training imports what it needs."""
    if f"training {RUN} in scratch/" not in (project.root / "log").read_text():
        return False
    time.sleep(0.4)
    return True


def stepping(project: Project) -> bool:
    if not list(project.root.glob("scratch/*.twice/first/heartbeat.json")):
        return False
    time.sleep(0.2)
    return True


@pytest.mark.soak
@pytest.mark.parametrize(
    ("signum", "to_all"),
    [(signal.SIGINT, True), (signal.SIGINT, False), (signal.SIGTERM, False)],
    ids=["Ctrl-C", "kill -INT", "kill"],
)
@pytest.mark.parametrize("when", [starting, stepping])
def test_it_is_stopped_at_once_and_says_how_to_start_again(
    endless: Project, signum: signal.Signals, to_all: bool, when: Callable[[Project], bool]
) -> None:
    ended = interrupted(endless, signum, lambda: when(endless), *TWICE, "--steps", "100000", to_all=to_all)
    assert ended.code == 128 + signum, ended.lines
    said, *lines = ended.lines
    assert said.startswith(f"training {RUN} in scratch/")
    assert lines == [
        f"error: {signum.name}: stopped; of two trainings to compare nothing is kept",
        f"  fix: start again with: wrn-pipe stage train {RUN} --twice --steps 100000",
    ]
    assert list((endless.root / "scratch").iterdir()) == []
    assert not (endless.root / "models").exists()


@pytest.mark.soak
@pytest.mark.parametrize("when", [starting, stepping])
def test_no_training_outlives_a_command_that_is_killed_and_another_starts_again(
    endless: Project, when: Callable[[Project], bool]
) -> None:
    ended = interrupted(endless, signal.SIGKILL, lambda: when(endless), *TWICE)  # which waits for all of its session
    assert ended.code == -signal.SIGKILL
    assert [line for line in ended.lines if "error" in line or "Traceback" in line] == []
    again = endless.cli(*TWICE, "--steps", "2")
    assert again.returncode == 0, again.stderr
    assert " was killed; this starts again\n" in again.stderr
    assert "two trainings of 2 steps are equal" in again.stdout
    assert list((endless.root / "scratch").iterdir()) == []


@pytest.mark.soak
def test_one_that_fails_is_not_to_be_continued(endless: Project) -> None:
    """More memory than any machine has, in the first step."""
    loop = endless.root / "pipeline" / "training" / "loop.py"
    code = loop.read_text()
    loop.write_text(code.replace("loss = task.loss(", "torch.empty(1 << 55)\n            loss = task.loss("))
    assert loop.read_text() != code
    ended = endless.cli(*TWICE, "--steps", "3", MLFLOW_TRACKING_URI="none://")
    assert ended.returncode == 1, ended.stderr
    what, remedy = ended.stderr.splitlines()[-2:]
    assert what.startswith(f"error: run {RUN}: out of memory in epoch 1 after step 0; ")
    again = f"wrn-pipe stage train {RUN} --twice --steps 3"
    assert remedy.startswith(f"  fix: free memory and start again with: {again}; if it cannot fit, ")
