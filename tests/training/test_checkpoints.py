"""Saved states: whole or passed over, written past full disks, exact after any of it."""

import shutil
from itertools import pairwise
from pathlib import Path

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from project import file_size_limit
from small_trainings import ignore, training, with_nan

from pipeline.artifacts import SAVED_STATES, Progress
from pipeline.errors import UserError, WrnPipeError
from pipeline.runner.run_hooks import SHARE, CheckpointInterval
from pipeline.training.checkpoints import Checkpoints
from pipeline.training.device import facts
from pipeline.training.loop import Training, train

NAME = r"epoch-0001-step-000000\.[0-9a-f]{32}\.safetensors"
TWO = {"epochs": 2, "batch_size": 130}


def states(folder: Path) -> list[Path]:
    return sorted(folder.glob(SAVED_STATES))


@pytest.fixture(scope="module")
def saved(tiny_beton: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Training]:
    """The folder of a training of 2 epochs with its last two states, and the training."""
    folder = tmp_path_factory.mktemp("saved") / "fingerprint"
    run = training(tiny_beton, folder, **TWO)
    train(run, ignore)
    return folder, run


@pytest.fixture
def folder(saved: tuple[Path, Training], tmp_path: Path) -> Path:
    """Of a training that was stopped after the first of two epochs."""
    to = tmp_path / "fingerprint"
    to.mkdir()
    shutil.copy(states(saved[0])[0], to)
    return to


@pytest.fixture
def stopped(folder: Path, tiny_beton: Path) -> Training:
    return training(tiny_beton, folder, **TWO)


@settings(max_examples=10, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(where=st.floats(0, 1, exclude_max=True), bit=st.integers(0, 7), torn=st.booleans())
def test_a_damaged_state_is_reported_and_the_one_before_is_taken(
    saved: tuple[Path, Training], tmp_path: Path, capfd: pytest.CaptureFixture[str], where: float, bit: int, torn: bool
) -> None:
    """One flipped bit anywhere, or an end that is missing. The last two states are kept."""
    folder = tmp_path / "fingerprint"
    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(saved[0], folder)
    assert [path.name[:22] for path in states(folder)] == ["epoch-0001-step-000000", "epoch-0002-step-000000"]
    damaged = states(folder)[1]
    content = bytearray(damaged.read_bytes())
    at = int(where * len(content))
    content[at] ^= 1 << bit
    damaged.write_bytes(content[:at] if torn else content)
    run = saved[1]
    optimizer = torch.optim.SGD(run.model.parameters(), momentum=0.9)
    found = Checkpoints(folder, run.model, optimizer, torch.zeros(3, dtype=torch.float64)).resume()
    assert (found.epoch, found.step, len(found.history)) == (1, 0, 1)
    said = capfd.readouterr().err
    assert f"skipping {damaged}: torn or damaged" in said
    assert f"resuming from {states(folder)[0]}" in said


def test_the_last_two_states_are_kept(saved: tuple[Path, Training], tmp_path: Path) -> None:
    model = saved[1].model
    optimizer = torch.optim.SGD(model.parameters(), momentum=0.9)
    checkpoints = Checkpoints(tmp_path, model, optimizer, torch.zeros(3, dtype=torch.float64))
    for epoch in (1, 2, 3):
        checkpoints.save(Progress(epoch=epoch))
    assert [path.name[:10] for path in states(tmp_path)] == ["epoch-0002", "epoch-0003"]


def test_a_state_of_another_fingerprint_is_refused(folder: Path, tiny_beton: Path) -> None:
    other = folder.rename(folder.with_name("other"))
    with pytest.raises(UserError, match="a state of another training, of fingerprint fingerprint"):
        train(training(tiny_beton, other, **TWO), ignore)


def test_a_full_disk_stops_the_training_and_costs_nothing(
    saved: tuple[Path, Training], folder: Path, stopped: Training, tiny_beton: Path
) -> None:
    (first,) = states(folder)
    with (
        file_size_limit(first.stat().st_size // 2),
        pytest.raises(WrnPipeError, match=f"cannot save .*File too large.*last good state is .*{NAME}") as error,
    ):
        train(stopped, ignore)
    assert "make room for 2 MB" in error.value.remedy
    assert [path for path in folder.glob("*epoch*")] == [first]
    train(training(tiny_beton, folder, **TWO), ignore)
    assert [path.read_bytes() for path in states(folder)] == [path.read_bytes() for path in states(saved[0])]


def test_short_memory_is_explained(stopped: Training) -> None:
    """A real allocation that cannot succeed, in the middle of a step."""
    stopped.model.register_forward_hook(lambda *_: torch.empty(10**15))
    with pytest.raises(WrnPipeError, match=f"out of memory in epoch 2 after step 0; last good state: .*{NAME}") as e:
        train(stopped, ignore)
    assert "wrn-pipe repro train@tiny" in e.value.remedy
    assert "batch_size" in e.value.remedy


def test_a_weight_that_is_not_finite_after_the_last_step_is_not_saved(stopped: Training) -> None:
    """A loss that is not, which the next step shows: see test_training.py."""
    run, _ = with_nan(stopped, "fc.bias", 2)
    with pytest.raises(WrnPipeError, match=rf"non-finite fc.bias in epoch 3 at step 0; last good state: .*{NAME}") as e:
        train(run, ignore)
    assert "learning rate" in e.value.remedy
    assert [path.name[:22] for path in states(run.scratch)] == ["epoch-0001-step-000000"]


def test_another_machine_may_go_on_and_is_recorded(
    stopped: Training, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """Half of the epochs by another processor, as facts() tells machines apart."""
    here = facts(torch.device("cpu"))
    with monkeypatch.context() as patch:
        patch.setattr("pipeline.training.loop.facts", lambda _: {**here, "name": "another"})
        moved = train(stopped, ignore)
    assert [place["name"] for place in moved.devices] == [here["name"], "another"]
    assert "run.json names both" in capfd.readouterr().err
    assert train(stopped, ignore) == moved  # nothing is trained any more, so the result does not depend on this place


def test_kernels_that_torch_cannot_repeat_are_named_and_kept(stopped: Training) -> None:
    torch.use_deterministic_algorithms(True, warn_only=True)
    try:
        stopped.model.register_forward_hook(lambda _, __, y: y + torch.zeros(1).put_(torch.tensor([0]), torch.zeros(1)))
        for _ in ("trained", "taken up"):
            assert train(stopped, ignore).unrepeatable == ["put_"]
    finally:
        torch.use_deterministic_algorithms(False)


@settings(max_examples=20)
@given(st.floats(0.001, 5), st.floats(0.0005, 20))
def test_saving_costs_at_most_a_hundredth_of_the_time(save_s: float, step_s: float) -> None:
    """On a made-up clock, over some hours of steps; the first save, whose cost nobody knows, apart."""
    now = 0.0
    saves = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("time.monotonic", lambda: now)
        interval = CheckpointInterval()
        for _ in range(2000):
            now += step_s
            if interval.due():
                now += save_s
                interval.saved(save_s, "scratch/x")
                saves.append(now)
    between = [(b - save_s) - a for a, b in pairwise(saves)]
    assert all(gap >= save_s / SHARE - 1e-6 for gap in between)
    # No more is lost than was promised: the time that pays for a save, or ten seconds, and one step.
    assert all(gap <= max(save_s / SHARE, 10.0) + step_s + 1e-6 for gap in between)
