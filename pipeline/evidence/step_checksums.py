"""Two trainings side by side, step by step: which tensor differed first, and after which step."""

import json
import zlib
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from torch.optim.optimizer import Optimizer, register_optimizer_step_post_hook

from pipeline.training.loop import Training, train

_NAMES, _SUMS, _HISTORY = "tensors.json", "checksums.uint32", "history.json"


class _EnoughError(Exception):
    """Ends a training after the steps that were asked for."""


def traced(training: Training, steps: int | None) -> None:
    """Train in the folder `training.scratch` and leave there the checksum of each tensor after each step.

    The tensors are parameters, running statistics and momentum buffers. `steps`: at most this many; None: all.
    """
    model, folder = training.model, training.scratch
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
            with suppress(_EnoughError):
                train(training, lambda record, rate: history.append(asdict(record)))
        finally:
            hook.remove()
    for name, content in ((_NAMES, names), (_HISTORY, history)):
        (folder / name).write_text(json.dumps(content), encoding="utf-8")


def first_difference(one: Path, other: Path) -> str | None:
    """Where the trainings traced in two folders part: the step, counted from 1, and the first tensor. None: nowhere."""
    names = [json.loads((folder / _NAMES).read_text(encoding="utf-8")) for folder in (one, other)]
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
