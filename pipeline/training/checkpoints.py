"""Checkpoints of an unfinished training: what of it is kept, how many, and how one is taken up."""

import time
from pathlib import Path

import torch
from torch import nn
from torch.optim import Optimizer

from pipeline.artifacts import SAVED_STATES, Progress, read_checkpoint, write_checkpoint
from pipeline.errors import WrnPipeError
from pipeline.params import WeightAverage
from pipeline.progress import say


class EMA:
    """The exponential moving average of a model's weights and batch statistics: Protocol.weight_average."""

    def __init__(self, model: nn.Module, settings: WeightAverage) -> None:
        self.model, self.settings = model, settings
        self.tensors: dict[str, torch.Tensor] = {}
        """Empty before the first update, then what state_dict has, but for counters."""

    def update(self, done: int) -> None:
        """After `done` steps of the training in all."""
        if done % self.settings.every:
            return
        now = {k: v for k, v in self.model.state_dict().items() if v.is_floating_point()}
        if self.tensors:
            torch._foreach_lerp_(list(self.tensors.values()), list(now.values()), 1 - self.settings.decay)
        else:
            self.tensors = {k: v.clone() for k, v in now.items()}


class Checkpoints:
    """The saved states of one training, in a folder named by its fingerprint.

    Two are kept, so that one stays when the other is damaged. The tensors hold everything that steps change.
    """

    def __init__(
        self, folder: Path, model: nn.Module, optimizer: Optimizer, totals: torch.Tensor, ema: EMA | None = None
    ) -> None:
        self.folder, self.model, self.optimizer, self.totals, self.ema = folder, model, optimizer, totals, ema
        self.newest: Path | None = None
        """The newest state known to be whole."""

    def save(self, at: Progress) -> float:
        """The seconds it took. Raises WrnPipeError when the disk is full or fails; what was saved before stays."""
        started = time.perf_counter()
        tensors = self._tensors()
        try:
            path = write_checkpoint(self.folder, at, tensors)
            before, self.newest = self.newest, path
            if path != before:
                for old in {*self.folder.glob(SAVED_STATES)} - {path, before}:
                    old.unlink()
        except OSError as error:
            kept = f"the last good state is {self.newest}" if self.newest else "no earlier state was saved"
            room = 3 * sum(tensor.nbytes for tensor in tensors.values()) / 1e6
            raise WrnPipeError(
                f"cannot save the training in {self.folder} ({error.strerror}); {kept}",
                f"make room for {room:.0f} MB there and start it again: it continues",
            ) from error
        return time.perf_counter() - started

    def resume(self) -> Progress:
        """Put the newest whole state back; a fresh Progress when there is none. Damaged ones are said and passed over.

        Raises UserError for a state of another fingerprint.
        """
        for path in sorted(self.folder.glob(SAVED_STATES), reverse=True):
            try:
                at, tensors = read_checkpoint(path)
            except OSError as error:
                say(f"skipping {path}: torn or damaged, {error.strerror}")
                continue
            self._restore(tensors)
            say(f"resuming from {path}")
            self.newest = path
            return at
        return Progress()

    def _tensors(self) -> dict[str, torch.Tensor]:
        momentum = {k: self.optimizer.state[p].get("momentum_buffer") for k, p in self.model.named_parameters()}
        average = self.ema.tensors if self.ema else {}
        parts = {"model": self.model.state_dict(), "momentum": momentum, "average": average}
        tensors = {f"{part}.{k}": v for part, named in parts.items() for k, v in named.items() if v is not None}
        return {k: v.detach().cpu().contiguous() for k, v in (tensors | {"totals": self.totals}).items()}

    def _restore(self, tensors: dict[str, torch.Tensor]) -> None:
        def of(prefix: str) -> dict[str, torch.Tensor]:
            return {k.removeprefix(prefix): v for k, v in tensors.items() if k.startswith(prefix)}

        self.model.load_state_dict(of("model."))
        if self.ema:
            saved, like = of("average."), self.model.state_dict()  # whose order the average keeps; files sort by name
            self.ema.tensors = {k: torch.empty_like(v).copy_(saved[k]) for k, v in like.items() if k in saved}
        momentum = of("momentum.")
        for key, parameter in self.model.named_parameters():
            if key in momentum:
                self.optimizer.state[parameter]["momentum_buffer"] = torch.empty_like(parameter).copy_(momentum[key])
        self.totals.copy_(tensors["totals"])
