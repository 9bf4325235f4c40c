"""Trainings in sittings: a budget of time, and a state that travels from one clone to another."""

import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from project import RUN, Project, make_project

from pipeline.errors import TimeOverError, UserError
from pipeline.runner.interruptions import seconds, stop_at_once, time_budget

FILES = ("model.safetensors", "history.csv", "run.json")


@pytest.fixture
def project(tmp_path: Path, tiny_beton: Path, tiny_dataset_entry: Callable[[str], dict[str, Any]]) -> Project:
    """One run on data that is there already, of a protocol that is the same on every processor."""
    project = make_project(tmp_path / "project", tiny_dataset_entry("http://127.0.0.1:9/none"), tiny_beton)
    project.edit(lambda params: params["protocols"]["brief"].update(epochs=6, precision="fp32"))
    project.edit(lambda params: params["loading"].update(backend="numpy"))
    return project


@pytest.mark.parametrize(("text", "expected"), [("90s", 90), ("2h30m", 9000), ("1d12h", 129_600), ("5m", 300)])
def test_times(text: str, expected: int) -> None:
    assert seconds(text, "--for") == expected


@pytest.mark.parametrize("text", ["", "5", "h", "1h 5m", "5m1h", "-5m", "1.5h"])
def test_invalid_times(text: str) -> None:
    with pytest.raises(UserError, match="--for"):
        seconds(text, "--for")


def sleep_within(ended: list[str]) -> None:
    with (
        time_budget("1s", "wrn-pipe repro --for 1s", lambda: ["a is in epoch 4 of 200"]),
        stop_at_once(lambda: "nothing", "wrn-pipe repro"),
    ):
        try:
            time.sleep(60)
        finally:
            ended.append("cleaned up")


def test_when_the_time_is_over_the_work_ends_as_by_a_signal() -> None:
    ended: list[str] = []
    with pytest.raises(TimeOverError) as over:
        sleep_within(ended)
    assert ended == ["cleaned up"]
    assert over.value.what == "the time of --for 1s is over, nothing is lost; a is in epoch 4 of 200"
    assert (over.value.exit_code, over.value.remedy) == (75, "go on with: wrn-pipe repro --for 1s")


def test_what_is_done_in_time_ends_as_ever() -> None:
    with time_budget("1h", "again", list), stop_at_once(lambda: "nothing", "again"):
        pass
    with pytest.raises(UserError, match="mistake"), time_budget("1h", "again", list):
        raise UserError("mistake", "none")


@pytest.mark.slow
@pytest.mark.parametrize(
    "words",
    [
        "repro",
        pytest.param("repro --jobs 1", marks=pytest.mark.soak),
        pytest.param(f"stage train {RUN}", marks=pytest.mark.soak),
    ],
)
def test_a_command_whose_time_is_over_says_how_to_go_on(project: Project, words: str) -> None:
    ended = project.cli(*words.split(), "--for", "1s", MLFLOW_TRACKING_URI="none://")
    assert ended.returncode == 75, ended.stdout + ended.stderr
    assert "the time of --for 1s is over, nothing is lost" in ended.stderr
    assert f"fix: go on with: wrn-pipe {words} --for 1s" in ended.stderr
    assert "Traceback" not in ended.stderr


@pytest.mark.soak
def test_half_a_training_goes_on_in_another_clone_to_the_same_bits(project: Project, tmp_path: Path) -> None:
    """The state is taken after some epochs, by a copy of the file while the training goes on to its end."""
    project.commit("plan")
    other = Project(tmp_path / "other")
    assert project.run("git", "clone", "-q", ".", str(other.root)).returncode == 0
    shutil.copytree(project.root / "data", other.root / "data", symlinks=True, dirs_exist_ok=True)
    nothing = project.cli("checkpoint", "export", RUN, "--to", "early.zip")
    assert (nothing.returncode, "has no saved state" in nothing.stderr) == (2, True)
    log = tmp_path / "log"
    training = project.start(log, "stage", "train", RUN, MLFLOW_TRACKING_URI="none://")
    half: Path | None = None
    while half is None:
        assert training.poll() is None, log.read_text()
        time.sleep(0.002)
        found = [path for path in (project.root / "scratch").glob("*/epoch-000[2-4]*.safetensors") if path.is_file()]
        for path in found:
            half = tmp_path / path.parent.name / path.name
            half.parent.mkdir(exist_ok=True)
            try:
                shutil.copy(path, half)
            except FileNotFoundError:  # the next one took its place
                half = None
    assert training.wait() == 0, log.read_text()
    whole = [(project.root / "models" / RUN / name).read_bytes() for name in FILES]
    # Back to the half-way state, as a sitting that ended there leaves it.
    scratch = project.root / "scratch" / half.parent.name
    shutil.rmtree(scratch)
    scratch.mkdir()
    shutil.copy(half, scratch)
    sent = tmp_path / "half.zip"
    exported = project.cli("checkpoint", "export", RUN, "--to", str(sent))
    assert exported.returncode == 0, exported.stderr
    for change, why in ((lambda b: b[: len(b) // 2], "holds no state"), (spoilt, "holds no state|damaged")):
        (tmp_path / "bad.zip").write_bytes(change(sent.read_bytes()))
        refused = other.cli("checkpoint", "import", str(tmp_path / "bad.zip"))
        assert refused.returncode == 2
        assert any(each in refused.stderr for each in why.split("|")), refused.stderr
    taken = other.cli("checkpoint", "import", str(sent))
    assert taken.returncode == 0, taken.stderr
    assert "goes on" in taken.stdout
    again = other.cli("checkpoint", "import", str(sent))
    assert (again.returncode, "as far or further lies here" in again.stderr) == (2, True)
    finished = other.cli("stage", "train", RUN, MLFLOW_TRACKING_URI="none://")
    assert finished.returncode == 0, finished.stderr
    assert "epoch 1/6" not in finished.stderr, "it started over"
    assert [(other.root / "models" / RUN / name).read_bytes() for name in FILES] == whole
    other.edit(lambda params: params["protocols"]["brief"].update(label_smoothing=0.3))
    with (other.root / "pipeline/training/loop.py").open("a") as file:
        file.write("# edited\n")
    differs = other.cli("checkpoint", "import", str(sent))
    assert differs.returncode == 2
    assert "protocol.label_smoothing 0.1, here 0.3" in differs.stderr
    assert "pipeline/training/loop.py" in differs.stderr


def spoilt(content: bytes) -> bytes:
    """One byte of the weights is another."""
    at = len(content) // 3
    return content[:at] + bytes([content[at] ^ 1]) + content[at + 1 :]
