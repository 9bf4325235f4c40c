"""How a training ends before its time: by a signal, or for want of memory. What it says, and the exit code."""

import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

from pipeline.errors import WrnPipeError
from pipeline.progress import say
from pipeline.signals import handled

OUTSIDE = "before or after the training's steps"
_NO_MEMORY = ("can't allocate memory", "bad_alloc", "out of memory")
"""In the text of torch's plain RuntimeErrors on a CPU."""


def continue_with(run_id: str) -> str:
    """The command that takes a training up again."""
    return f"wrn-pipe repro train@{run_id}"


class InterruptedTrainingError(WrnPipeError):
    """The user or the scheduler stopped the training; its state is saved."""

    def __init__(self, signum: int, where: str, run_id: str) -> None:
        super().__init__(
            f"{signal.Signals(signum).name}: stopped {where}, nothing is lost",
            f"continue with: {continue_with(run_id)}",
        )
        self.signum, self.where = signum, where
        self.exit_code = 128 + signum


@contextmanager
def stop_at_once(run_id: str) -> Iterator[None]:
    """Before and after the steps there is nothing to finish or save: a signal raises InterruptedTrainingError."""

    def stop(signum: int, frame: FrameType | None) -> None:
        raise InterruptedTrainingError(signum, OUTSIDE, run_id)

    with handled(stop):
        yield


@contextmanager
def stop_after_step(alone: bool = True) -> Iterator[list[int]]:
    """The signals that asked to stop while the block runs; a second one kills at once.

    Of processes that train together none is killed so and none speaks: that is for the one that started them.
    """
    received: list[int] = []

    def note(signum: int, frame: FrameType | None) -> None:
        received.append(signum)
        if not alone:
            return
        signal.signal(signum, signal.SIG_DFL)
        say(f"{signal.Signals(signum).name}: finishing this step and saving")

    with handled(note):
        yield received


@contextmanager
def explain_no_memory(run_id: str, where: Callable[[], str]) -> Iterator[None]:
    """Turn numpy's, torch's and Python's ways to say that memory is short into a WrnPipeError. `where`: what to add."""
    import torch

    try:
        yield
    except (MemoryError, torch.OutOfMemoryError, RuntimeError) as error:
        plain = not isinstance(error, MemoryError | torch.OutOfMemoryError)
        if plain and not any(words in str(error) for words in _NO_MEMORY):
            raise
        raise WrnPipeError(
            f"run {run_id}: out of memory {where()}",
            f"free memory and continue with: {continue_with(run_id)}; if it can not fit, a lower batch_size or "
            "precision: bf16 needs less (which is another run, from its start)",
        ) from error
