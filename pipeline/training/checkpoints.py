"""The state of an unfinished training on disk: files that are whole, checked by their digest, newest first."""

import json
import os
import time
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from hashlib import sha256
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load
from safetensors.torch import save as to_bytes
from torch import nn
from torch.optim import Optimizer

from pipeline.artifacts import SAVED_STATES
from pipeline.errors import UserError, WrnPipeError
from pipeline.progress import say
from pipeline.publish import sync
from pipeline.training.ema import EMA

_ABOUT = "training"
"""The one metadata key: safetensors writes several in random order, and equal states are to be equal files."""


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
    test_error: float | None = None
    """Percent of the test split misclassified by the weights after the epoch; None where nobody looked."""


@dataclass
class Progress:
    """How far a training has come, and on what. Schedule and random draws are functions of these counters."""

    epoch: int = 0
    """The epoch under way, from 0."""
    step: int = 0
    """Steps done of it."""
    history: list[EpochRecord] = field(default_factory=list)
    devices: list[dict[str, Any]] = field(default_factory=list)
    """What the steps ran on, in order, as pipeline.training.device.facts says it: more than one after a move."""
    unrepeatable: list[str] = field(default_factory=list)
    """Kernels met that torch cannot make deterministic."""


class Checkpoints:
    """The saved states of one training, in a folder named by its fingerprint.

    A name holds the place in the training and the first half of the file's sha256, so `sha256sum` checks it as we do:
    `epoch-0003-step-000120.<32 hexadecimal digits>.safetensors`. Two states are kept, so that one stays when the other
    is damaged. The tensors hold everything that steps change.
    """

    def __init__(
        self,
        folder: Path,
        model: nn.Module,
        optimizer: Optimizer,
        totals: torch.Tensor,
        ema: EMA | None = None,
    ) -> None:
        self.folder, self.model, self.optimizer, self.totals = folder, model, optimizer, totals
        self.ema = ema
        self.newest: Path | None = None
        """The newest state known to be whole."""
        self.seconds = 0.0
        """What the last save took."""

    def save(self, at: Progress) -> Path:
        """Write, force to the disk, rename, read back; only then let go of older states but the one before.

        Raises WrnPipeError when the disk is full or fails; what was saved before stays.
        """
        started = time.perf_counter()
        content = to_bytes(self._tensors(), {_ABOUT: json.dumps({"fingerprint": self.folder.name, **asdict(at)})})
        name = f"epoch-{at.epoch:04d}-step-{at.step:06d}.{_digest(content)}.safetensors"
        path, part = self.folder / name, self.folder / f".{name}.part"
        try:
            if not self.folder.is_dir():
                self.folder.mkdir(parents=True)
                sync(self.folder.parent)
            for left in self.folder.glob(".*.part"):  # by a killed process
                left.unlink()
            with part.open("wb") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
                if hasattr(os, "posix_fadvise"):  # so that it is the disk that is read back, not the page cache
                    os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
            os.replace(part, path)
            sync(self.folder)
            if _digest(path.read_bytes()) != _digest(content):
                raise OSError(None, "the file reads back otherwise than it was written")
            before, self.newest = self.newest, path
            for old in self.folder.glob(SAVED_STATES) if path != before else ():
                if old not in (path, before):
                    old.unlink()
        except OSError as error:
            with suppress(OSError):  # a disk that has failed may not let go of it either
                part.unlink()
            kept = f"the last good state is {self.newest}" if self.newest else "no earlier state was saved"
            raise WrnPipeError(
                f"cannot save the training in {self.folder} ({error.strerror}); {kept}",
                f"make room for {3 * len(content) / 1e6:.0f} MB there and start it again: it continues",
            ) from error
        self.seconds = time.perf_counter() - started
        return path

    def resume(self) -> Progress:
        """Put the newest whole state back; a fresh Progress when there is none. Damaged ones are said and passed over.

        Raises UserError for a state of another fingerprint, which somebody must have copied here.
        """
        for path in sorted(self.folder.glob(SAVED_STATES), reverse=True):
            try:
                content = path.read_bytes()
                if _digest(content) != path.name.split(".")[1]:
                    raise OSError(None, "its content is not what was saved")
            except OSError as error:
                say(f"skipping {path}: torn or damaged, {error.strerror}")
                continue
            tensors, about = load(content), _about(content)
            if (of := about.pop("fingerprint")) != self.folder.name:
                raise UserError(
                    f"{path} is a state of another training, of fingerprint {of}",
                    f"delete {path}: it cannot be continued under other settings, code or data",
                )
            self._restore(tensors)
            say(f"resuming from {path}")
            self.newest = path
            return Progress(**{**about, "history": [EpochRecord(**row) for row in about["history"]]})
        return Progress()

    def _tensors(self) -> dict[str, torch.Tensor]:
        tensors = {f"model.{k}": v for k, v in self.model.state_dict().items()}
        for key, parameter in self.model.named_parameters():
            buffer = self.optimizer.state[parameter].get("momentum_buffer")
            if buffer is not None:
                tensors[f"momentum.{key}"] = buffer
        if self.ema:
            tensors |= {f"average.{k}": v for k, v in self.ema.tensors.items()}
        tensors["totals"] = self.totals
        return {k: v.detach().cpu().contiguous() for k, v in tensors.items()}

    def _restore(self, tensors: dict[str, torch.Tensor]) -> None:
        def of(prefix: str) -> dict[str, torch.Tensor]:
            return {k.removeprefix(prefix): v for k, v in tensors.items() if k.startswith(prefix)}

        self.model.load_state_dict(of("model."))
        if self.ema:
            saved, like = of("average."), self.model.state_dict()  # whose order the average keeps; files sort by name
            self.ema.tensors = {k: torch.empty_like(v).copy_(saved[k]) for k, v in like.items() if k in saved}
        for key, parameter in self.model.named_parameters():
            if (buffer := tensors.get(f"momentum.{key}")) is not None:
                self.optimizer.state[parameter]["momentum_buffer"] = torch.empty_like(parameter).copy_(buffer)
        self.totals.copy_(tensors["totals"])


def _digest(content: bytes) -> str:
    return sha256(content).hexdigest()[:32]


def _about(content: bytes) -> dict[str, Any]:
    """What `save` put into a safetensors file: 8 bytes of header length, little-endian, then the header as JSON."""
    length = int.from_bytes(content[:8], "little")
    about: dict[str, Any] = json.loads(json.loads(content[8 : 8 + length])["__metadata__"][_ABOUT])
    return about
