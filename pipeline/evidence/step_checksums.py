"""Two trainings side by side, step by step: which tensor differed first, and after which step."""

import json
import warnings
import zlib
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.optim.optimizer import Optimizer, register_optimizer_step_post_hook

from pipeline.training.device import note_unrepeatable
from pipeline.training.loop import Training, train

_NAMES, _SUMS, _HISTORY, _KERNELS = "tensors.json", "checksums.uint32", "history.json", "unrepeatable_kernels.json"


class _EnoughError(Exception):
    """Ends a training after the steps that were asked for."""


class _Listener(nn.Module):
    """`model` as the steps call it, which notes in `kernels` those that do not repeat, as note_unrepeatable does.

    The training notes them too, but tells them at its end only, which one of a few steps does not reach.
    """

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model
        self.kernels: list[str] = []
        self.listens = False

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        if not self.listens:
            # Begun within the training's own block, which would not hand on what it hears, and ended by it.
            with note_unrepeatable(self.kernels):
                hear = warnings.showwarning
            warnings.showwarning = hear
            self.listens = True
        logits: torch.Tensor = self.model(images)
        return logits


def traced(training: Training, steps: int | None) -> None:
    """Train anew in the folder `training.scratch` and leave there the checksum of each tensor after each step.

    The tensors are parameters, running statistics and momentum buffers. `steps`: at most so many; None: all.
    """
    model, folder = training.model, training.scratch
    listener = _Listener(training.forward or model)
    names: list[str] = []
    done = 0

    def note(optimizer: Optimizer, *_: Any) -> None:
        nonlocal done
        tensors = dict(model.state_dict())
        for name, parameter in model.named_parameters():
            buffer = optimizer.state[parameter].get("momentum_buffer")
            if buffer is not None:
                tensors[f"momentum of {name}"] = buffer
        names[:] = list(tensors)
        # Any change of up to 32 consecutive bits changes a CRC-32; of others it misses one in 4 billion.
        sums = [zlib.crc32(t.detach().cpu().contiguous().flatten().numpy()) for t in tensors.values()]
        file.write(np.array(sums, dtype=np.uint32).tobytes())
        done += 1
        if done == steps:
            raise _EnoughError

    history: list[dict[str, Any]] = []
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / _SUMS).open("wb") as file:  # as they come: of a whole training they fill 100 MB
        hook = register_optimizer_step_post_hook(note)
        try:
            train(replace(training, forward=listener), lambda record, rate: history.append(asdict(record)))
        except _EnoughError:
            pass
        finally:
            hook.remove()
    for name, content in ((_NAMES, names), (_HISTORY, history), (_KERNELS, listener.kernels)):
        (folder / name).write_text(json.dumps(content), encoding="utf-8")


def unrepeatable_kernels(*folders: Path) -> list[str]:
    """Of the trainings traced in these folders: kernels they met that torch has no repeatable one for."""
    return sorted({name for folder in folders for name in _read(folder / _KERNELS)})


def first_difference(one: Path, other: Path) -> str | None:
    """Where the trainings traced in two folders part: the step, counted from 1, and the first tensor. None: nowhere."""
    names = [_read(folder / _NAMES) for folder in (one, other)]
    sums = [
        np.fromfile(folder / _SUMS, np.uint32).reshape(-1, len(tensors))
        for folder, tensors in zip((one, other), names, strict=True)
    ]
    if names[0] != names[1] or sums[0].shape != sums[1].shape:
        return f"{sums[0].shape[0]} steps of {len(names[0])} tensors are not {sums[1].shape[0]} of {len(names[1])}"
    unequal = sums[0] != sums[1]
    if not unequal.any():
        same = (one / _HISTORY).read_bytes() == (other / _HISTORY).read_bytes()
        return None if same else "history.csv differs, although every tensor is equal after every step"
    step = int(unequal.any(axis=1).argmax())
    apart = [name for name, differs in zip(names[0], unequal[step], strict=True) if differs]
    return f"after step {step + 1}, {len(apart)} of {len(names[0])} tensors differ, first {apart[0]}"


def _read(path: Path) -> list[str]:
    names: list[str] = json.loads(path.read_text(encoding="utf-8"))
    return names
