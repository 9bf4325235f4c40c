"""How a training ends before its time: by a signal, or for want of memory. What it says, and the exit code."""

import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from types import FrameType

from pipeline.errors import OUTSIDE, InterruptedTrainingError, WrnPipeError, continue_with
from pipeline.progress import say
from pipeline.signals import handled

_NO_MEMORY = (
    "can't allocate memory",
    "bad_alloc",
    "out of memory",
    "could not create a memory",
    "_ALLOC_FAILED",
    "_ALLOCATION_FAILED",
)
"""In the text of torch's plain RuntimeErrors: of the CPU's allocator, oneDNN, cuBLAS and cuDNN."""
_unanswered: list[int] = []
"""Signals that have come within `stop_at_once`."""


@contextmanager
def stop_at_once(run_id: str) -> Iterator[None]:
    """Before and after the steps there is nothing to finish or save: a signal raises InterruptedTrainingError.

    One that is dropped on its way, as some of numpy's C code does with whatever is raised in it, ends the training
    after its first step.
    """

    def stop(signum: int, frame: FrameType | None) -> None:
        _unanswered.append(signum)
        # Not an Exception: torch's import takes one for a failure of what it tries, and goes on.
        raise KeyboardInterrupt

    with handled(stop):
        try:
            yield
        except (KeyboardInterrupt, Exception) as error:
            # What fails after a signal fails for it: numpy, broken off while it is imported, stays half of itself.
            if not _unanswered or isinstance(error, WrnPipeError):
                raise
            raise InterruptedTrainingError(_unanswered[0], OUTSIDE, run_id) from error
        finally:
            _unanswered.clear()


@contextmanager
def stop_after_step(alone: bool = True) -> Iterator[list[int]]:
    """The signals that asked to stop while the block runs; a second one kills at once.

    Of processes that train together none is killed so and none speaks: that is for the one that started them.
    """
    received = list(_unanswered)

    def note(signum: int, frame: FrameType | None) -> None:
        received.append(signum)
        if not alone:
            return
        signal.signal(signum, signal.SIG_DFL)
        with suppress(RuntimeError):  # the signal broke into a line that nobody takes: Python starts no second one
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
