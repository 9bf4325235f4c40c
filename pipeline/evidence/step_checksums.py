"""Two trainings side by side, step by step: which tensor differed first, and after which step."""

import json
import zlib
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from torch.optim.optimizer import Optimizer, register_optimizer_step_post_hook

from pipeline.training.loop import Training, train

_FILE = "checksums.npz"


class EnoughError(Exception):
    """Ends a training after the steps or epochs that were asked for."""


def traced(training: Training, steps: int | None) -> None:
    """Train in the folder `training.scratch` and leave there the checksum of each tensor after each step.

    The tensors are parameters, running statistics and momentum buffers. `steps`: at most this many; None: all.
    """
    model, folder = training.model, training.scratch
    names: list[str] = []
    sums: list[npt.NDArray[np.uint32]] = []
    history: list[dict[str, Any]] = []

    def note(optimizer: Optimizer, *_: Any) -> None:
        tensors = dict(model.state_dict())
        for name, parameter in model.named_parameters():
            buffer = optimizer.state[parameter].get("momentum_buffer")
            if buffer is not None:
                tensors[f"momentum of {name}"] = buffer
        names[:] = list(tensors)
        # Any change of up to 32 consecutive bits changes a CRC-32; of others it misses one in 4 billion.
        crcs = [zlib.crc32(t.detach().cpu().contiguous().flatten().numpy()) for t in tensors.values()]
        sums.append(np.array(crcs, np.uint32))
        if len(sums) == steps:
            raise EnoughError

    hook = register_optimizer_step_post_hook(note)
    try:
        with suppress(EnoughError):
            train(training, lambda record, rate: history.append(asdict(record)))
    finally:
        hook.remove()
    folder.mkdir(parents=True, exist_ok=True)
    np.savez(folder / _FILE, names=names, sums=np.array(sums), history=json.dumps(history))


def first_difference(one: Path, other: Path) -> str | None:
    """Where the trainings traced in two folders part: the step, counted from 1, and the first tensor. None: nowhere."""
    with np.load(one / _FILE) as ours, np.load(other / _FILE) as theirs:
        names, sums, other_sums = ours["names"], ours["sums"], theirs["sums"]
        if not np.array_equal(names, theirs["names"]) or sums.shape != other_sums.shape:
            return "{} steps of {} tensors are not {} of {}".format(*sums.shape, *other_sums.shape)
        unequal = sums != other_sums
        if not unequal.any():
            same = ours["history"] == theirs["history"]
            return None if same else "history.csv differs, although every tensor is equal after every step"
    step = int(unequal.any(axis=1).argmax())
    apart = names[unequal[step]]
    return f"after step {step + 1}, {len(apart)} of {len(names)} tensors differ, first {apart[0]}"
