"""wrn-pipe stage train RUN --twice, ended early by real signals: it says what is true, and leaves no process behind."""

import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from project import RUN, Project, make_project
from test_interruptions import interrupted

pytestmark = pytest.mark.slow
COMMAND = ("stage", "train", RUN, "--twice")


@pytest.fixture
def project(tmp_path: Path, tiny_beton: Path, tiny_dataset_entry: Callable[[str], dict[str, Any]]) -> Project:
    """One run on data that is there already, longer than any test waits."""
    project = make_project(tmp_path / "project", tiny_dataset_entry("http://127.0.0.1:9/none"), tiny_beton)

    def change(params: Any) -> None:
        params["loading"]["backend"] = "numpy"
        params["protocols"]["brief"]["epochs"] = 100_000

    project.edit(change)
    return project


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


@pytest.mark.parametrize(
    ("signum", "to_all"),
    [
        pytest.param(signal.SIGINT, True, id="Ctrl-C"),
        pytest.param(signal.SIGINT, False, id="kill -INT", marks=pytest.mark.soak),
        pytest.param(signal.SIGTERM, False, id="kill", marks=pytest.mark.soak),
    ],
)
@pytest.mark.parametrize("when", [starting, pytest.param(stepping, marks=pytest.mark.soak)])
def test_it_is_stopped_at_once_and_says_how_to_start_again(
    project: Project, signum: signal.Signals, to_all: bool, when: Callable[[Project], bool]
) -> None:
    ended = interrupted(project, signum, lambda: when(project), *COMMAND, "--steps", "100000", to_all=to_all)
    assert ended.code == 128 + signum, ended.lines
    said, *lines = ended.lines
    assert said.startswith(f"training {RUN} in scratch/")
    assert lines == [
        f"error: {signum.name}: stopped; of two trainings to compare nothing is kept",
        f"  fix: start again with: wrn-pipe stage train {RUN} --twice --steps 100000",
    ]
    assert list((project.root / "scratch").iterdir()) == []
    assert not (project.root / "models").exists()


@pytest.mark.soak
@pytest.mark.parametrize("when", [starting, stepping])
def test_no_training_outlives_a_command_that_is_killed_and_another_starts_again(
    project: Project, when: Callable[[Project], bool]
) -> None:
    ended = interrupted(project, signal.SIGKILL, lambda: when(project), *COMMAND)  # which waits for all of its session
    assert ended.code == -signal.SIGKILL
    assert [line for line in ended.lines if "error" in line or "Traceback" in line] == []
    again = project.cli(*COMMAND, "--steps", "2")
    assert again.returncode == 0, again.stderr
    assert " was killed; this starts again\n" in again.stderr
    assert "two trainings of 2 steps are equal" in again.stdout
    assert list((project.root / "scratch").iterdir()) == []


@pytest.mark.soak
def test_one_that_fails_is_not_to_be_continued(project: Project) -> None:
    """More memory than any machine has, in the first step."""
    loop = project.root / "pipeline" / "training" / "loop.py"
    code = loop.read_text()
    loop.write_text(code.replace("loss = task.loss(", "torch.empty(1 << 55)\n            loss = task.loss("))
    assert loop.read_text() != code
    ended = project.cli(*COMMAND, "--steps", "3", MLFLOW_TRACKING_URI="none://")
    assert ended.returncode == 1, ended.stderr
    what, remedy = ended.stderr.splitlines()[-2:]
    assert what.startswith(f"error: run {RUN}: out of memory in epoch 1 after step 0; ")
    again = f"wrn-pipe stage train {RUN} --twice --steps 3"
    assert remedy.startswith(f"  fix: free memory and start again with: {again}; if it cannot fit, ")
