"""Saved states: whole or passed over, written past full disks, exact after any of it."""

import json
import math
import shutil
from itertools import pairwise
from pathlib import Path

import pytest
import torch
from full_disk import file_size_limit
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from small_trainings import ignore, training, weights

from pipeline.artifacts import SAVED_STATES
from pipeline.errors import UserError, WrnPipeError
from pipeline.runner.run_hooks import SHARE, CheckpointInterval
from pipeline.training import loop
from pipeline.training.checkpoints import Checkpoints, Progress
from pipeline.training.loop import Training, train

NAME = r"epoch-0001-step-000000\.[0-9a-f]{32}\.safetensors"


def states(folder: Path) -> list[Path]:
    return sorted(folder.glob(SAVED_STATES))


@pytest.fixture(scope="module")
def saved(tiny_beton: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Training]:
    """The folder of a training of 2 epochs with its last two states, and the training."""
    folder = tmp_path_factory.mktemp("saved") / "fingerprint"
    run = training(tiny_beton, folder, epochs=2, batch_size=130)
    train(run, ignore)
    return folder, run


def test_the_newest_state_is_the_end_and_the_one_before_is_kept(saved: tuple[Path, Training]) -> None:
    assert [path.name[:22] for path in states(saved[0])] == ["epoch-0001-step-000000", "epoch-0002-step-000000"]
    assert [path.name for path in saved[0].iterdir() if path not in states(saved[0])] == ["heartbeat.json"]


@settings(max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(where=st.floats(0, 1, exclude_max=True), bit=st.integers(0, 7), torn=st.booleans())
def test_a_damaged_state_is_said_and_the_one_before_is_taken(
    saved: tuple[Path, Training], tmp_path: Path, capfd: pytest.CaptureFixture[str], where: float, bit: int, torn: bool
) -> None:
    """One flipped bit anywhere, or an end that is missing."""
    folder = tmp_path / "fingerprint"
    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(saved[0], folder)
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


def test_after_a_damaged_state_the_end_is_the_same(
    saved: tuple[Path, Training], tiny_beton: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "fingerprint"
    shutil.copytree(saved[0], folder)
    last = states(folder)[1]
    last.write_bytes(last.read_bytes()[:-100])
    again = training(tiny_beton, folder, epochs=2, batch_size=130)
    train(again, ignore)
    assert [path.read_bytes() for path in states(folder)] == [path.read_bytes() for path in states(saved[0])]
    assert len(weights(again)) > 300_000


def test_a_state_of_another_fingerprint_is_refused(
    saved: tuple[Path, Training], tiny_beton: Path, tmp_path: Path
) -> None:
    shutil.copytree(saved[0], tmp_path / "other")
    with pytest.raises(UserError, match="a state of another training, of fingerprint fingerprint"):
        train(training(tiny_beton, tmp_path / "other", epochs=2, batch_size=130), ignore)


def test_a_full_disk_stops_the_training_and_costs_nothing(
    saved: tuple[Path, Training], tiny_beton: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "fingerprint"
    folder.mkdir()
    first = states(saved[0])[0]
    shutil.copy(first, folder)
    full = training(tiny_beton, folder, epochs=2, batch_size=130)
    with (
        file_size_limit(first.stat().st_size // 2),
        pytest.raises(WrnPipeError, match=f"cannot save .*File too large.*last good state is .*{NAME}") as error,
    ):
        train(full, ignore)
    assert "make room for 2 MB" in error.value.remedy
    assert sorted(path.name for path in folder.iterdir()) == [first.name, "heartbeat.json"]
    rest = training(tiny_beton, folder, epochs=2, batch_size=130)
    train(rest, ignore)
    assert [path.read_bytes() for path in states(folder)] == [path.read_bytes() for path in states(saved[0])]


def test_a_disk_that_does_not_even_let_go_of_a_part_is_explained(saved: tuple[Path, Training], tmp_path: Path) -> None:
    """A file where the folder should be: nothing can be written there, nor deleted."""
    (tmp_path / "file").write_text("")
    model = saved[1].model
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with pytest.raises(WrnPipeError, match=r"cannot save the training in .*; no earlier state was saved") as caught:
        Checkpoints(tmp_path / "file" / "fingerprint", model, optimizer, torch.zeros(3)).save(Progress())
    assert "make room for" in caught.value.remedy


def test_memory_that_is_short_is_explained(saved: tuple[Path, Training], tiny_beton: Path, tmp_path: Path) -> None:
    """A real allocation that cannot succeed, in the middle of a step."""
    folder = tmp_path / "fingerprint"
    folder.mkdir()
    shutil.copy(states(saved[0])[0], folder)
    run = training(tiny_beton, folder, epochs=2, batch_size=130)
    run.model.register_forward_hook(lambda *_: torch.empty(10**15))
    with pytest.raises(
        WrnPipeError, match=f"out of memory in epoch 2 after step 0; last good state: .*{NAME}"
    ) as error:
        train(run, ignore)
    assert "wrn-pipe repro train@tiny" in error.value.remedy
    assert "batch_size" in error.value.remedy


def test_a_bug_is_not_taken_for_a_want_of_memory(tiny_beton: Path, tmp_path: Path) -> None:
    run = training(tiny_beton, tmp_path / "fingerprint", batch_size=130)
    run.model.register_forward_hook(lambda *_: torch.ones(2) @ torch.ones(3))
    with pytest.raises(RuntimeError, match="size"):
        train(run, ignore)


def test_a_loss_that_is_no_number_names_its_step_and_the_last_good_state(tiny_beton: Path, tmp_path: Path) -> None:
    run = training(tiny_beton, tmp_path / "fingerprint", batch_size=52, epochs=2)
    steps = 0

    def spoil(*_: object) -> None:
        nonlocal steps
        steps += 1
        if steps == 8:
            with torch.no_grad():
                next(run.model.parameters())[0, 0, 0, 0] = math.nan

    run.model.register_forward_pre_hook(spoil)
    with pytest.raises(
        WrnPipeError, match=rf"the loss is no number in epoch 2 at step 3; last good state: .*{NAME}"
    ) as error:
        train(run, ignore)
    assert "learning rate" in error.value.remedy


def test_weights_that_are_no_numbers_are_not_saved_as_a_good_state(tiny_beton: Path, tmp_path: Path) -> None:
    """Spoiled after the epoch's last loss was taken, so that the loss does not tell."""
    run = training(tiny_beton, tmp_path / "fingerprint", batch_size=130, epochs=2)
    step = loop._step
    steps = 0

    def spoiling(*arguments: object) -> object:
        nonlocal steps
        steps += 1
        result = step(*arguments)  # type: ignore[arg-type]
        if steps == 4:
            with torch.no_grad():
                run.model.get_parameter("fc.bias")[3] = math.inf
        return result

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(loop, "_step", spoiling)
        with pytest.raises(WrnPipeError, match=rf"fc.bias is no number in epoch 3 .*: .*{NAME}"):
            train(run, ignore)
    assert [path.name[:22] for path in states(run.scratch)] == ["epoch-0001-step-000000"]


def test_another_machine_may_go_on_and_is_recorded(
    saved: tuple[Path, Training], tiny_beton: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """Half of the epochs with one thread, half with two: as facts() tells machines apart."""
    folder = tmp_path / "fingerprint"
    folder.mkdir()
    shutil.copy(states(saved[0])[0], folder)
    before = torch.get_num_threads()
    torch.set_num_threads(before + 1)
    try:
        moved = train(training(tiny_beton, folder, epochs=2, batch_size=130), ignore)
        assert [place["threads"] for place in moved.devices] == [before, before + 1]
        assert "run.json names both" in capfd.readouterr().err
        # Nothing is trained any more, so this place is none that the result depends on.
        torch.set_num_threads(before)
        again = train(training(tiny_beton, folder, epochs=2, batch_size=130), ignore)
        assert again == moved
    finally:
        torch.set_num_threads(before)


def test_kernels_that_torch_cannot_repeat_are_named_and_kept(tiny_beton: Path, tmp_path: Path) -> None:
    torch.use_deterministic_algorithms(True, warn_only=True)
    try:
        run = training(tiny_beton, tmp_path / "fingerprint", batch_size=130, epochs=1)
        assert train(run, ignore).unrepeatable == []
        run = training(tiny_beton, tmp_path / "other", batch_size=130, epochs=1)
        run.model.register_forward_hook(
            lambda _, __, output: output + torch.zeros(1).put_(torch.tensor([0]), torch.zeros(1))
        )
        assert train(run, ignore).unrepeatable == ["put_"]
        assert train(training(tiny_beton, tmp_path / "other", batch_size=130, epochs=1), ignore).unrepeatable == [
            "put_"
        ]
    finally:
        torch.use_deterministic_algorithms(False)


@given(st.floats(0.001, 5), st.floats(0.0005, 20))
def test_saving_costs_at_most_a_hundredth_of_the_time(save_s: float, step_s: float) -> None:
    """On a made-up clock, over some hours of steps; the first save, whose cost nobody knows, apart."""
    now = 0.0
    saves = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("time.monotonic", lambda: now)
        cadence = CheckpointInterval()
        for _ in range(2000):
            now += step_s
            if cadence.due():
                now += save_s
                cadence.saved(save_s, "scratch/x")
                saves.append(now)
    between = [(b - save_s) - a for a, b in pairwise(saves)]
    assert all(gap >= save_s / SHARE - 1e-6 for gap in between)
    # No more is lost than was promised: the time that pays for a save, or ten seconds, and one step.
    assert all(gap <= max(save_s / SHARE, 10.0) + step_s + 1e-6 for gap in between)


def test_a_state_holds_its_progress_as_text(saved: tuple[Path, Training]) -> None:
    """For whoever looks into scratch/ with other tools."""
    content = states(saved[0])[1].read_bytes()
    header = json.loads(content[8 : 8 + int.from_bytes(content[:8], "little")])
    progress = json.loads(header["__metadata__"]["training"])
    assert set(progress) == {*vars(Progress()), "fingerprint"}
    assert [row["epoch"] for row in progress["history"]] == [1, 2]
