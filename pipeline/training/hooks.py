"""What goes on around a training's steps and cannot change what they compute: when a state is saved, how a signal is
heard, what is shown. What stages pass is pipeline/runner/run_hooks.py; a training does without as well."""

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipeline.progress import say

if TYPE_CHECKING:
    from pipeline.artifacts import EpochRecord


class CheckpointInterval:
    """Decides when a state is saved between epoch ends: this one never."""

    def due(self) -> bool:
        """Count a step; whether to save after it."""
        return False

    def due_at_epoch_end(self) -> bool:
        """Whether to save at the end of an epoch; that of the last is always saved."""
        return True

    def saved(self, cost: float, where: str) -> None:
        """A state was saved in `cost` seconds."""


class Monitor:
    """Shows how a training comes along: this one epoch by epoch."""

    def step(self, images: int) -> bool:
        """Count a step of `images`; whether `show` is due."""
        return False

    def show(self, epoch: int, step: int, loss: float, wrong: float) -> None:
        """Epochs (from 0) and steps done, and the sums over the samples of the epoch under way."""

    def say(self, line: str) -> None:
        """Print a line about an epoch that has ended, and after it the time left, where that is known."""
        say(line)


class RunLogger:
    """Records a run elsewhere while it trains: this one nowhere."""

    def epoch(self, row: "EpochRecord", rate: float) -> None:
        """An epoch's record and its training images per second."""


class Hooks:
    """These do nothing: states are saved at epoch ends, no signal is heard, nothing is shown or logged."""

    def checkpoint_interval(self) -> CheckpointInterval:
        return CheckpointInterval()

    def stop_requests(self, alone: bool) -> AbstractContextManager[list[int]]:
        """The signals that asked to stop while the block runs. `alone`: no other process trains the same run."""
        return nullcontext([])

    def explain_no_memory(self, run_id: str, where: Callable[[], str]) -> AbstractContextManager[None]:
        """Turns the errors of a block that runs out of memory into a WrnPipeError that says `where`."""
        return nullcontext()

    def monitor(
        self, run_id: str, scratch: Path, epochs: int, steps: int, batch_size: int, done: int, leads: bool
    ) -> AbstractContextManager[Monitor]:
        """Of a training of `epochs` of `steps`, of which `done` are done. `leads`: it speaks for its ranks."""
        return nullcontext(Monitor())

    def run_logger(self, run_id: str, record: dict[str, Any]) -> AbstractContextManager[RunLogger]:
        """`record`: what run.json says."""
        return nullcontext(RunLogger())
