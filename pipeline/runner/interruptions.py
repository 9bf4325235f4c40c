"""How work ends before its time: by a signal, or for want of memory."""

import os
import re
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from types import FrameType
from typing import Any

from pipeline.errors import OUTSIDE, InterruptedTrainingError, StoppedError, TimeOverError, UserError, WrnPipeError
from pipeline.progress import say

NOTHING_HALF_DONE = "nothing half-done is left"
_NO_MEMORY = re.compile("can't allocate memory|bad_alloc|out of memory|could not create a memory|_ALLOC(ATION)?_FAILED")
"""In the text of torch's plain RuntimeErrors: of the CPU's allocator, oneDNN, cuBLAS and cuDNN."""
_heard: list[int] = []
"""Signals that have come within `stop_at_once` or `stop_training_at_once`."""
_SIGNALS = (signal.SIGINT, signal.SIGTERM)


@contextmanager
def handled(handler: Callable[[int, FrameType | None], None]) -> Iterator[None]:
    """Let `handler` answer both, and afterwards whatever answered before."""
    before = {s: signal.signal(s, handler) for s in _SIGNALS}
    try:
        yield
    finally:
        for signum, kept in before.items():
            signal.signal(signum, kept)


def is_alive(pid: int) -> bool:
    """Whether that process can still do anything: not a zombie, which has ended and waits for its parent to notice."""
    import psutil

    with suppress(psutil.NoSuchProcess):
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    return False


@contextmanager
def children_hear_no_signal() -> Iterator[None]:
    """Processes that are started in the block leave it to this one to end them.

    A terminal's Ctrl-C goes to all of a group: they would print tracebacks of their own. Blocked, since that is handed
    on to a process from its first instruction on; this one hears a signal when the block is over.
    """
    from multiprocessing import resource_tracker  # takes a tenth of the time of --help

    resource_tracker.ensure_running()  # when multiprocessing starts it by itself, it lifts the block
    before = signal.pthread_sigmask(signal.SIG_BLOCK, _SIGNALS)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def stop_at_once(kept: Callable[[], str], command: str) -> AbstractContextManager[Any]:
    """SIGINT and SIGTERM unwind the block, which cleans up as after any error; then StoppedError says what it has
    `kept` and the `command` that goes on. Yields whether a signal has come."""
    return _unwound(lambda signum: StoppedError(signum, f"stopped; {kept()}", f"continue with: {command}"))


def stop_training_at_once(run_id: str) -> AbstractContextManager[Any]:
    """The same for a training before and after its steps, when there is nothing to finish or save: a signal raises
    InterruptedTrainingError. One that is dropped on its way ends the training after its first step."""
    return _unwound(lambda signum: InterruptedTrainingError(signum, OUTSIDE, run_id))


@contextmanager
def _unwound(error_of: Callable[[int], StoppedError]) -> Iterator[Callable[[], bool]]:
    """Further signals on the way out are not heard: they would leave halves of what is being cleaned up. One that was
    dropped, as some of numpy's C code does with whatever is raised in it, has no way out: the next is heard."""

    def stop(signum: int, frame: FrameType | None) -> None:
        _heard.append(signum)
        error = sys.exception()
        while error and not isinstance(error, KeyboardInterrupt):
            error = error.__context__
        if error is None:  # else this cleans up after a signal
            # Not an Exception: those that work in between may take one for a failure of theirs and go on.
            raise KeyboardInterrupt

    with handled(stop):
        try:
            yield lambda: bool(_heard)
        except (KeyboardInterrupt, Exception) as error:
            # What fails after a signal fails for it: numpy, broken off while it is imported, stays half of itself.
            if not _heard or isinstance(error, WrnPipeError):
                raise
            raise error_of(_heard[0]) from error
        finally:
            _heard.clear()


@contextmanager
def stop_after_step(alone: bool = True) -> Iterator[list[int]]:
    """The signals that asked to stop while the block runs; a second one kills at once. Not where processes train
    together: there the one that started them speaks and kills."""
    received = list(_heard)

    def note(signum: int, frame: FrameType | None) -> None:
        received.append(signum)
        if not alone:
            return
        signal.signal(signum, signal.SIG_DFL)
        with suppress(RuntimeError):  # the signal broke into a line that nobody takes: Python starts no second one
            say(f"{signal.Signals(signum).name}: finishing this step and saving")

    with handled(note):
        yield received


def seconds(text: str, option: str) -> int:
    """Of a time such as 8h, 2h30m, 1d12h or 90s. Raises UserError for anything else."""
    found = re.fullmatch(r"(?:(\d+)d)?(?:(\d+)h)?(?:(\d+)m)?(?:(\d+)s)?", text)
    if not text or found is None:
        raise UserError(f"{option} {text!r}: invalid time", "write days, hours, minutes, seconds: 8h, 2h30m, 1d12h")
    return sum(int(part or 0) * unit for part, unit in zip(found.groups(), (86400, 3600, 60, 1), strict=True))


@contextmanager
def time_budget(text: str | None, again: str, how_far: Callable[[], list[str]]) -> Iterator[None]:
    """What the block does ends in time, as by SIGTERM, which saves what trains; then TimeOverError says `how_far` it is
    and the command that goes on. The signal comes half a minute early, or a tenth: a step and a save still follow."""
    if text is None:
        yield
        return
    budget = seconds(text, "--for")
    timer = threading.Timer(budget - min(30, budget / 10), os.kill, (os.getpid(), signal.SIGTERM))
    timer.daemon = True
    end = time.monotonic() + timer.interval
    timer.start()
    try:
        yield
    except (StoppedError, KeyboardInterrupt) as error:
        if time.monotonic() < end:
            raise
        what = "; ".join([f"the time of --for {text} is over, nothing is lost", *how_far()])
        raise TimeOverError(what, f"go on with: {again}") from error
    finally:
        timer.cancel()


@contextmanager
def explain_no_memory(run_id: str, where: Callable[[], str]) -> Iterator[None]:
    """Turn numpy's, torch's and Python's ways to say that memory is short into a WrnPipeError. `where`: what to add."""
    import torch

    try:
        yield
    except (MemoryError, torch.OutOfMemoryError, RuntimeError) as error:
        if not isinstance(error, MemoryError | torch.OutOfMemoryError) and not _NO_MEMORY.search(str(error)):
            raise
        raise WrnPipeError(
            f"run {run_id}: out of memory {where()}",
            f"free memory and continue with: wrn-pipe repro train@{run_id}; if it cannot fit, a lower batch_size or "
            "precision: bf16 needs less (which is another run, from its start)",
        ) from error
