"""Inside an epoch the process never waits for the device, and a loss that is no number stops the training all the same.

Where there is no GPU torch's meta device stands for one: its tensors have shapes and no values, so that whoever would
wait for a value (item, tolist, nonzero, a boolean mask, equal, a copy to the host) gets an error.
"""

import math
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest
import torch
from small_trainings import ignore, protocol, training
from torch.utils._python_dispatch import TorchDispatchMode

from pipeline.data.batches import Inputs
from pipeline.data.loader import Loader
from pipeline.data.preprocessing import Preprocessing
from pipeline.errors import WrnPipeError
from pipeline.models.names import parse
from pipeline.models.preact_resnet import PreActResNet
from pipeline.params import WeightAverage
from pipeline.runner import heartbeat
from pipeline.runner.heartbeat import Monitor
from pipeline.runner.run_hooks import CheckpointInterval
from pipeline.training import loop
from pipeline.training.async_copy import AsyncCopy
from pipeline.training.checkpoints import Checkpoints, Progress
from pipeline.training.ema import EMA
from pipeline.training.loop import CHECK_LOSS_STEPS, Training, train


class NeverDone:
    """torch.Event of a device that is never done, so that nobody may read what it copies."""

    def record(self) -> None:
        """The device goes on."""

    def query(self) -> bool:
        return False


class MetaAsyncCopy(AsyncCopy):
    """Of a tensor without values: its copy stays on the device, which is never done."""

    def __init__(self, tensor: torch.Tensor) -> None:
        super().__init__(tensor)
        self.copy, self.copied = torch.empty_like(tensor), NeverDone()  # type: ignore[assignment]


class NoBlockingCopies(TorchDispatchMode):
    """Counts copies from the host to the device, and refuses those that wait."""

    def __init__(self) -> None:
        super().__init__()
        self.copies = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        if func._schema.name == "aten::_to_copy" and args[0].device != result.device:
            self.copies += 1
            assert kwargs.get("non_blocking"), "a copy that waits"
        return result


def an_epoch(folder: Path, scratch: Path, device: torch.device, network: str = "WRN-10-1", **changes: Any) -> None:
    """The 5 steps of an epoch as `train` does them, between one wait for the device and the next."""
    recipe = protocol(batch_size=52, **changes)
    with device:
        model, preprocessing = PreActResNet(parse(network), 10, recipe.dropout), Preprocessing("meanstd")
    run = Training("tiny", recipe, 1, model, Loader(folder, "train", 52, "numpy"), preprocessing, device, scratch)
    # fused, as in train, is refused on the meta device
    optimizer = torch.optim.SGD(model.parameters(), 0.1, momentum=0.9, fused=device.type == "cuda" or None)
    totals = torch.zeros(3, dtype=torch.float64, device=device)
    glimpse, average = loop.AsyncCopy(totals), EMA(model, WeightAverage(decay=0.9, every=2))
    states, at = Checkpoints(scratch, model, optimizer, totals, average), Progress()
    keeper = loop._Keeper(run, states, at, [], CheckpointInterval(10**9), glimpse)
    monitor = Monitor("tiny", scratch, 2, 5, 52, None)
    dtype = torch.bfloat16 if run.precision == "bf16" else torch.float32
    inputs = Inputs(run.loader, preprocessing, recipe.flip, recipe.crop, 1, dtype, device)
    for at.epoch in range(2):  # what is copied once in a process is copied in the first
        watcher = NoBlockingCopies() if at.epoch and device.type == "meta" else nullcontext()
        if at.epoch and device.type == "cuda":
            torch.cuda.set_sync_debug_mode("error")
        at.step = 0
        with watcher:
            loop._epoch(run, inputs, optimizer, at, 5, keeper, monitor, None)
    assert at.step == 5
    assert glimpse.step is not None
    assert average.tensors
    if isinstance(watcher, NoBlockingCopies):
        assert watcher.copies == 4  # an epoch's draws


@pytest.fixture
def meta(monkeypatch: pytest.MonkeyPatch) -> torch.device:
    monkeypatch.setattr(torch, "autocast", lambda *_, **__: nullcontext())  # does not know the meta device
    monkeypatch.setattr(loop, "AsyncCopy", MetaAsyncCopy)
    often(monkeypatch)
    return torch.device("meta")


def often(monkeypatch: pytest.MonkeyPatch) -> None:
    """Five steps are enough to look at the loss, for the log and for what is no number."""
    monkeypatch.setattr(loop, "CHECK_LOSS_STEPS", 2)
    monkeypatch.setattr(heartbeat, "FILE_EVERY_S", 0.0)


def test_an_epoch_reads_nothing_from_the_device(tiny_beton: Path, tmp_path: Path, meta: torch.device) -> None:
    an_epoch(tiny_beton, tmp_path, meta, "WRN-10-1-dropout", dropout=0.3)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA GPU")
@pytest.mark.parametrize("changes", [{"precision": "bf16"}, {"network": "WRN-10-1-dropout", "dropout": 0.3}])
def test_an_epoch_does_not_wait_for_a_gpu(
    tiny_beton: Path, tmp_path: Path, changes: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    often(monkeypatch)
    try:
        an_epoch(tiny_beton, tmp_path, torch.device("cuda", 0), **changes)
    finally:
        torch.cuda.set_sync_debug_mode("default")


@pytest.mark.parametrize("spoiled", [3, 2 * CHECK_LOSS_STEPS, 2 * CHECK_LOSS_STEPS + 1])
def test_a_loss_that_is_no_number_ends_the_training_soon_and_with_its_step(
    tiny_beton: Path, tmp_path: Path, spoiled: int
) -> None:
    run = training(tiny_beton, tmp_path / "fingerprint", batch_size=1, epochs=1)
    steps = 0

    def spoil(*_: object) -> None:
        nonlocal steps
        steps += 1
        if steps == spoiled:
            with torch.no_grad():
                next(run.model.parameters())[0, 0, 0, 0] = math.nan

    run.model.register_forward_pre_hook(spoil)
    with pytest.raises(WrnPipeError, match=rf"the loss is no number in epoch 1 at step {spoiled}; "):
        train(run, ignore)
    assert spoiled <= steps < spoiled + 2 * CHECK_LOSS_STEPS


def test_a_glimpse_is_of_the_step_it_was_asked_at_and_waits_for_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    tensor = torch.zeros(3, dtype=torch.float64)
    glimpse = AsyncCopy(tensor)
    seen = []
    for step in range(3):
        tensor += 1
        seen.append(glimpse.at(step))
    assert seen == [None, (0, [1.0] * 3), (1, [2.0] * 3)]
    glimpse.copied = NeverDone()  # type: ignore[assignment]
    tensor += 1
    assert glimpse.at(3) is None
    glimpse.copied = None
    assert glimpse.at(4) == (2, [3.0] * 3)
