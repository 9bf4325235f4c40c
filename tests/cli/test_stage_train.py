"""wrn-pipe stage train: its options, and a real training by FFCV that is stopped, killed and repeated."""

import random
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from project import RUN, Project, make_project
from typer.testing import CliRunner

from pipeline.cli.main import app
from pipeline.errors import UserError

FILES = ("model.safetensors", "history.csv", "run.json")


@pytest.mark.parametrize(
    ("arguments", "what"),
    [
        (["evaluate", "cifar10-wrn-40-1-quick-s1", "--fresh"], "stage evaluate has no option --fresh"),
        (["train", "cifar10-wrn-40-1-quick-s1", "--twice", "--wait"], "--twice with --wait"),
        (["train", "cifar10-wrn-40-1-quick-s1", "--steps", "3"], "--steps without --twice"),
    ],
)
def test_options_that_do_not_fit(arguments: list[str], what: str) -> None:
    ended = CliRunner().invoke(app, ["stage", *arguments])
    assert isinstance(ended.exception, UserError)
    assert what in ended.exception.what


@pytest.fixture
def project(tmp_path: Path, tiny_beton: Path, tiny_dataset_entry: Callable[[str], dict[str, Any]]) -> Project:
    """One run on data that is there already; MLflow's address leads nowhere."""
    return make_project(tmp_path / "project", tiny_dataset_entry("http://127.0.0.1:9/none"), tiny_beton)


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
