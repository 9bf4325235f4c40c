"""Real trainings that are stopped, repeated, ended for want of time, and continued in another clone; --twice,
ended early by real signals, says what is true and leaves no process behind."""

import shutil
import signal
import time
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest
from project import RUN, Project, clone, refused, told, wait_for
from test_interruptions import check_stop, interrupted

from pipeline.errors import TimeOverError, UserError
from pipeline.runner.interruptions import seconds, stop_at_once, time_budget

TWICE = ("stage", "train", RUN, "--twice")


@pytest.fixture
def endless(project: Project) -> Project:
    """Whose run takes longer than any test waits."""
    project.set_brief(epochs=100_000)
    return project


@pytest.mark.soak
def test_a_training_by_ffcv_that_is_taken_elsewhere_ends_with_the_same_bytes(project: Project, tmp_path: Path) -> None:
    project.set_brief(epochs=12, precision="fp32")
    project.edit(lambda params: params["loading"].update(backend="ffcv"))
    project.commit("plan")
    other = clone(project, tmp_path / "other")
    shutil.copytree(project.root / "data", other.root / "data", symlinks=True, dirs_exist_ok=True)
    sent, log = tmp_path / "half.zip", project.log
    exports, imports = ("checkpoint", "export", RUN, "--to", str(sent)), ("checkpoint", "import")
    assert "has no saved state" in refused(project.cli(*exports))
    assert project.train().wait() == 0, log.read_text()
    expected = project.published()
    first = project.train("--fresh", "--checkpoint-steps", "3")
    wait_for("epoch 1/12", log, first)
    first.send_signal(signal.SIGTERM)
    assert first.wait() == 143, log.read_text()
    assert f"continue with: wrn-pipe repro train@{RUN}" in log.read_text()
    assert "saved as scratch/" in log.read_text()

    told(project.cli(*exports))
    content = sent.read_bytes()
    at = len(content) // 3
    for damaged in (content[: len(content) // 2], content[:at] + bytes([content[at] ^ 1]) + content[at + 1 :]):
        (tmp_path / "bad.zip").write_bytes(damaged)
        assert "holds no state" in refused(other.cli(*imports, str(tmp_path / "bad.zip")))
    assert "goes on" in told(other.cli(*imports, str(sent)))
    assert "as far or further lies here" in refused(other.cli(*imports, str(sent)))
    for each in (project, other):
        assert each.train("--wait").wait() == 0, each.log.read_text()
        assert "epoch 1/12" not in each.log.read_text(), "it started over"
        assert each.published() == expected

    other.set_brief(label_smoothing=0.3)
    with (other.root / "pipeline/training/loop.py").open("a") as file:
        file.write("# edited\n")
    differs = refused(other.cli(*imports, str(sent)))
    assert "protocol.label_smoothing 0.1, here 0.3" in differs
    assert "pipeline/training/loop.py" in differs


@pytest.mark.soak
def test_twice_proves_that_a_training_repeats_or_shows_where_it_does_not(project: Project) -> None:
    """With two threads, whose sums could be taken in any order; the other tests have one."""
    threads = {"OMP_NUM_THREADS": "2", "OMP_DISPLAY_ENV": "true"}
    log = project.log
    assert project.train("--twice", "--steps", "4", **threads).wait() == 0, log.read_text()
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
        if ended := project.train("--twice").wait():
            break
    assert ended == 1, log.read_text()
    assert "does not repeat to the bit: after step 3, " in log.read_text()
    assert list((project.root / "scratch").iterdir()) == []


def starting(project: Project) -> bool:
    """The first training imports what it needs."""
    if f"training {RUN}, the first time" not in project.log.read_text():
        return False
    time.sleep(0.4)
    return True


def stepping(project: Project) -> bool:
    if not list(project.root.glob("scratch/*.twice-*/first/heartbeat.json")):
        return False
    time.sleep(0.2)
    return True


@pytest.mark.soak
@pytest.mark.parametrize(("signum", "when"), [(signal.SIGINT, starting), (signal.SIGTERM, stepping)])
def test_it_is_stopped_at_once_and_leaves_nothing(
    endless: Project, signum: signal.Signals, when: Callable[[Project], bool]
) -> None:
    ended = interrupted(endless, signum, lambda: when(endless), *TWICE, "--steps", "100000")
    check_stop(signum, ended, "nothing half-done is left", f"stage train {RUN} --twice --steps 100000")
    assert list((endless.root / "scratch").iterdir()) == []
    assert not (endless.root / "models").exists()


@pytest.mark.soak
def test_no_training_outlives_a_command_that_is_killed(endless: Project) -> None:
    ended = interrupted(endless, signal.SIGKILL, lambda: stepping(endless), *TWICE)
    assert ended.code == -signal.SIGKILL
    (left,) = endless.root.glob("scratch/*.twice-*")
    until = time.monotonic() + 60
    while any(left.name in " ".join(each.info["cmdline"] or ()) for each in psutil.process_iter(["cmdline"])):
        assert time.monotonic() < until
        time.sleep(0.1)


def test_times() -> None:
    for text, expected in {"90s": 90, "2h30m": 9000, "1d12h": 129_600, "5m": 300}.items():
        assert seconds(text, "--for") == expected
    for text in ("", "5", "h", "1h 5m", "5m1h", "-5m", "1.5h"):
        with pytest.raises(UserError, match="--for"):
            seconds(text, "--for")


def test_when_the_time_is_over_it_is_said_how_far_the_work_has_come() -> None:
    stops = stop_at_once(lambda: "nothing", "wrn-pipe repro")
    with pytest.raises(TimeOverError) as over, time_budget("1s", "again", lambda: ["a is in epoch 4 of 200"]), stops:
        time.sleep(60)
    assert over.value.what.endswith("nothing is lost; a is in epoch 4 of 200")


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
