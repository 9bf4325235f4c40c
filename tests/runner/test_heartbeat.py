"""What a training says of itself while it runs: on a bar, and in a file that others read."""

from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace

import pytest

from pipeline.runner import run_hooks
from pipeline.runner.run_hooks import Monitor, duration, read_heartbeat


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    clock = SimpleNamespace(now=1000.0)
    made_up = SimpleNamespace(monotonic=lambda: clock.now, time=lambda: 1.7e9 + clock.now)
    monkeypatch.setattr(run_hooks, "time", made_up)
    return clock


def test_it_says_how_far_and_how_fast(
    tmp_path: Path, clock: SimpleNamespace, capsys: pytest.CaptureFixture[str]
) -> None:
    monitor = Monitor("tiny", tmp_path / "scratch", epochs=3, steps=100, batch=10, bar=None)
    monitor.show(0, 0, 0.0, 0.0)
    begun = read_heartbeat(tmp_path / "scratch")
    assert begun is not None
    assert (begun.epoch, begun.loss, begun.images_per_s, begun.seconds_left) == (1, None, None, None)
    due = []
    for step in range(1, 51):
        clock.now += 5.0 if step == 1 else 0.5  # the first step compiles: it is no measure
        if monitor.step(10):
            due.append(step)
            monitor.show(1, step, loss=10.0 * 2 * step, wrong=10.0 * 0.25 * step)
    assert due == [11, 31]  # every ten seconds, not every step
    found = read_heartbeat(tmp_path / "scratch")
    assert found is not None
    assert (found.run, found.epoch, found.epochs, found.step, found.steps) == ("tiny", 2, 3, 31, 100)
    assert (found.loss, found.error) == (2.0, 25.0)
    assert found.images_per_s == 20.0
    assert found.seconds_left == (2 * 100 - 31) * 10 / 20.0
    capsys.readouterr()
    monitor.say("so far")
    assert capsys.readouterr().err == "so far, 84 s left\n"


def test_no_log_is_silent_for_long(tmp_path: Path, clock: SimpleNamespace, capsys: pytest.CaptureFixture[str]) -> None:
    """Epochs of 200 s: a line at most every 40 s, looked at every ten; none twice at their ends."""
    monitor = Monitor("tiny", tmp_path, epochs=2, steps=100, batch=10, bar=None)
    said = [0.0]
    for step in range(1, 101):
        clock.now += 2.0
        if monitor.step(10):
            monitor.show(0, step, loss=20.0 * step, wrong=5.0 * step)
        if capsys.readouterr().err:
            said.append(2.0 * step)
    assert max(after - before for before, after in pairwise(said)) <= 40
    assert said[-1] <= 196, "of the last step the epoch's own line tells"
    monitor.say("tiny epoch 1/2")
    clock.now += 2.0
    monitor.step(10)
    monitor.show(1, 1, 20.0, 5.0)
    said_once = capsys.readouterr().err
    assert said_once.startswith("tiny epoch 1/2, ")
    assert said_once.count("\n") == 1
    clock.now += 40.0
    assert monitor.step(10)
    monitor.show(1, 2, 40.0, 10.0)
    assert capsys.readouterr().err.startswith("tiny epoch 2/2 step 2/100: loss 2.000, error 50.0 %, ")


def test_the_rate_follows_a_machine_that_slows_down(tmp_path: Path, clock: SimpleNamespace) -> None:
    monitor = Monitor("tiny", tmp_path, epochs=100, steps=100, batch=10, bar=None)
    for seconds in [0.1] * 1000 + [1.0] * 200:
        clock.now += seconds
        if monitor.step(10):
            monitor.show(0, 1, 1.0, 1.0)
    assert monitor.latest is not None
    assert monitor.latest.images_per_s == pytest.approx(10.0)


def test_a_folder_that_takes_no_file_stops_no_training(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "scratch").touch()
    Monitor("tiny", tmp_path / "scratch", 1, 1, 1, None).show(0, 0, 0.0, 0.0)
    assert "cannot write" in capfd.readouterr().err


def test_durations() -> None:
    words = {0: "0 s", 99: "99 s", 100: "2 min", 5940: "99 min", 6060: "1 h 41 min", 200_000: "2 d 07 h"}
    assert {seconds: duration(seconds) for seconds in words} == words
