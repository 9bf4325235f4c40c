"""Inside an epoch the process never waits for the device, and a non-finite loss stops the training all the same.

torch's meta device stands for a GPU: its tensors have shapes and no values, so that whoever would wait for a value
(item, tolist, nonzero, a boolean mask, equal, a copy to the host) gets an error.
"""

from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from small_trainings import ignore, protocol, training, with_nan
from torch.utils._python_dispatch import TorchDispatchMode

from pipeline.data.batches import Preprocessing
from pipeline.data.loader import Loader
from pipeline.errors import WrnPipeError
from pipeline.models.names import parse
from pipeline.models.resnet import ResNet
from pipeline.runner import run_hooks
from pipeline.runner.run_hooks import Monitor
from pipeline.tasks.classification import Classification
from pipeline.training import loop
from pipeline.training.hooks import Hooks
from pipeline.training.loop import AsyncCopy, Training, train

META = torch.device("meta")


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
    """Refuses copies from the host to the device that wait."""

    def __torch_dispatch__(self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        if func._schema.name == "aten::_to_copy" and args[0].device != result.device:
            assert kwargs.get("non_blocking"), "a copy that waits"
        return result


def test_an_epoch_reads_nothing_from_the_device(
    tiny_beton: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Five steps are enough to look at the loss, for the log and for whether it is finite."""
    sgd = torch.optim.SGD
    monkeypatch.setattr(torch.optim, "SGD", lambda *a, fused, **settings: sgd(*a, **settings))  # no fused one on meta
    monkeypatch.setattr(torch, "autocast", lambda *_, **__: nullcontext())  # does not know the meta device
    monkeypatch.setattr(loop, "AsyncCopy", MetaAsyncCopy)
    monkeypatch.setattr(loop, "CHECK_LOSS_STEPS", 2)
    monkeypatch.setattr(run_hooks, "FILE_EVERY_S", 0.0)
    recipe = protocol(batch_size=52, dropout=0.3, weight_average={"decay": 0.9, "every": 2})
    with META:
        model, preprocessing = ResNet(parse("WRN-10-1-dropout"), 10, 0.3), Preprocessing("meanstd")
    loader = Loader(tiny_beton, "train", 52, "numpy")
    run = Training("tiny", recipe, 1, Classification(0.1), model, loader, preprocessing, META, tmp_path, Hooks())
    under_way = loop._Loop(run)
    under_way.monitor = Monitor("tiny", tmp_path, 2, 5, 52, None)
    under_way.epoch()  # what is copied once in a process is copied here
    under_way.at.epoch, under_way.at.step = 1, 0
    with NoBlockingCopies():
        under_way.epoch()
    assert under_way.at.step == 5
    assert under_way.watched.step is not None
    assert under_way.ema
    assert under_way.ema.tensors


@pytest.mark.parametrize("spoiled", [3, 10, 11])
def test_a_non_finite_loss_ends_the_training_soon_and_with_its_step(
    tiny_beton: Path, tmp_path: Path, spoiled: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Within twice as many steps as lie between two looks: 5 here."""
    monkeypatch.setattr(loop, "CHECK_LOSS_STEPS", 5)
    run = training(tiny_beton, tmp_path / "fingerprint", batch_size=8, epochs=1)
    run, steps = with_nan(replace(run, hooks=Hooks()), "conv1.weight", spoiled - 1)
    with pytest.raises(WrnPipeError, match=rf"non-finite loss in epoch 1 at step {spoiled}; "):
        train(run, ignore)
    assert spoiled <= len(steps) < spoiled + 10
