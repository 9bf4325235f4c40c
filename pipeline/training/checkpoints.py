"""The state of an unfinished training on disk: one file, complete or absent."""

import json
import os
from dataclasses import asdict, dataclass, field
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import nn
from torch.optim import Optimizer

from pipeline.progress import say

_KEEP = 2


@dataclass
class EpochRecord:
    """One row of history.csv. Rates and losses are those of the training mini-batches as they came."""

    epoch: int
    """Completed epochs, from 1."""
    learning_rate: float
    """Of the epoch's last step."""
    train_loss: float
    """Mean over the epoch's samples, label smoothing included."""
    train_error: float
    """Percent of the epoch's augmented samples misclassified."""


@dataclass
class Progress:
    """How far a training has come."""

    epoch: int = 0
    """The epoch under way, from 0."""
    step: int = 0
    """Steps done of it."""
    history: list[EpochRecord] = field(default_factory=list)


def save(folder: Path, progress: Progress, model: nn.Module, optimizer: Optimizer, totals: torch.Tensor) -> Path:
    """Write the newest state and drop all but the last two. The tensors hold everything that steps change."""
    folder.mkdir(parents=True, exist_ok=True)
    name = f"epoch-{progress.epoch:04d}-step-{progress.step:06d}.safetensors"
    part = folder / f".{name}.part"
    tensors = {f"model.{k}": v for k, v in model.state_dict().items()}
    for key, parameter in model.named_parameters():
        buffer = optimizer.state[parameter].get("momentum_buffer")
        if buffer is not None:
            tensors[f"momentum.{key}"] = buffer
    tensors["totals"] = totals
    save_file(
        {k: v.detach().cpu().contiguous() for k, v in tensors.items()}, part, {"progress": json.dumps(asdict(progress))}
    )
    with part.open("rb+") as file:
        os.fsync(file.fileno())
    os.replace(part, folder / name)
    for old in sorted(folder.glob("epoch-*.safetensors"))[:-_KEEP]:
        old.unlink()
    return folder / name


def resume(folder: Path, model: nn.Module, optimizer: Optimizer, totals: torch.Tensor) -> Progress:
    """Put the newest readable state back into the given objects; a fresh Progress when there is none."""
    for path in sorted(folder.glob("epoch-*.safetensors"), reverse=True):
        try:
            with safe_open(path, "pt") as file:
                saved = json.loads(file.metadata()["progress"])
                tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118 - not a mapping
        except SafetensorError as error:
            say(f"skipping {path}: {error}")
            continue
        model.load_state_dict({k.removeprefix("model."): v for k, v in tensors.items() if k.startswith("model.")})
        for key, parameter in model.named_parameters():
            if (buffer := tensors.get(f"momentum.{key}")) is not None:
                optimizer.state[parameter]["momentum_buffer"] = torch.empty_like(parameter).copy_(buffer)
        totals.copy_(tensors["totals"])
        say(f"resuming from {path.name}")
        return Progress(saved["epoch"], saved["step"], [EpochRecord(**row) for row in saved["history"]])
    return Progress()
