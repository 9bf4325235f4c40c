"""Real trainings that are stopped, killed, repeated, ended for want of time, and continued in another clone; --twice,
ended early by real signals, says what is true and leaves no process behind."""

import random
import shutil
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from project import RUN, Project, make_project
from test_interruptions import interrupted

from pipeline.errors import TimeOverError, UserError
from pipeline.runner.interruptions import seconds, stop_at_once, time_budget

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
    assert " was killed\n" in again.stderr
    assert "two trainings of 2 steps are equal" in again.stdout
    assert list((endless.root / "scratch").iterdir()) == []


@pytest.mark.soak
def test_one_that_fails_is_not_to_be_continued(endless: Project) -> None:
    """More memory than any machine has, in the first step."""
    loop = endless.root / "pipeline" / "training" / "loop.py"
    code = loop.read_text()
    loop.write_text(code.replace("loss = task.loss(", "torch.empty(1 << 55); loss = task.loss("))
    assert loop.read_text() != code
    ended = endless.cli(*TWICE, "--steps", "3", MLFLOW_TRACKING_URI="none://")
    assert ended.returncode == 1, ended.stderr
    what, remedy = ended.stderr.splitlines()[-2:]
    assert what.startswith(f"error: run {RUN}: out of memory in epoch 1 after step 0; ")
    again = f"wrn-pipe stage train {RUN} --twice --steps 3"
    assert remedy.startswith(f"  fix: free memory and start again with: {again}; if it cannot fit, ")


def test_times() -> None:
    for text, expected in {"90s": 90, "2h30m": 9000, "1d12h": 129_600, "5m": 300}.items():
        assert seconds(text, "--for") == expected
    for text in ("", "5", "h", "1h 5m", "5m1h", "-5m", "1.5h"):
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
    project.edit(lambda params: params["protocols"]["brief"].update(epochs=6, precision="fp32"))
    project.edit(lambda params: params["loading"].update(backend="numpy"))
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
