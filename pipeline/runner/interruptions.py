"""How work ends at once by a signal; trainings, which save their state: pipeline/runner/training_interruptions.py."""

import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from multiprocessing import resource_tracker
from types import FrameType

from pipeline.errors import StoppedError, WrnPipeError, keep_last_words
from pipeline.signals import handled

NOTHING_HALF_DONE = "nothing half-done is left"
_SIGNALS = (signal.SIGINT, signal.SIGTERM)


@contextmanager
def stop_at_once(kept: Callable[[], str], command: str, how: str = "continue with") -> Iterator[Callable[[], bool]]:
    """SIGINT and SIGTERM unwind the block, which cleans up as after any error; StoppedError says the rest.

    kept: what the block leaves behind, told when it has ended. command: the one that goes on. how: where it begins
    anew, the words before it. Further signals on the way out are not heard: they would leave halves of what is being
    cleaned up. One that was dropped, as some of numpy's C code does with whatever is raised in it, has no way out: the
    next is heard. Yields whether one has come.
    """
    received: list[int] = []

    def stop(signum: int, frame: FrameType | None) -> None:
        received.append(signum)
        if not _on_the_way_out():
            # Not an Exception: those that work in between may take one for a failure of theirs and go on.
            raise KeyboardInterrupt

    with handled(stop):
        try:
            yield lambda: bool(received)
        except (KeyboardInterrupt, Exception) as error:
            # What fails after a signal fails for it: numpy, broken off while it is imported, stays half of itself.
            if not received or isinstance(error, WrnPipeError):
                raise
            raise StoppedError(received[0], f"stopped; {kept()}", f"{how}: {command}") from error


def _on_the_way_out() -> bool:
    """Whether what runs now cleans up after a signal."""
    error = sys.exception()
    while error and not isinstance(error, KeyboardInterrupt):
        error = error.__context__
    return error is not None


@contextmanager
def stage_attempt(stage: str) -> Iterator[None]:
    """The block runs `stage`, such as convert@cifar10-rgb: a signal stops it at once, and what it said is kept.

    A training sets handlers of its own, which save its state.
    """
    with keep_last_words(stage), stop_at_once(_kept_by(stage), f"wrn-pipe repro {stage}"):
        yield


def _kept_by(stage: str) -> Callable[[], str]:
    kind, _, name = stage.partition("@")
    if kind != "download":
        return lambda: NOTHING_HALF_DONE
    # Now, and not when it is told: numpy, which this imports, can not be imported again where a signal broke that off.
    from pipeline.data.dataset_download import DOWNLOADS

    def arrived() -> str:
        size = sum(path.stat().st_size for path in (DOWNLOADS / name).glob("*") if path.is_file())
        if not size:
            return NOTHING_HALF_DONE
        return f"{size / 1e6:.1f} MB have arrived in {DOWNLOADS / name} and are not fetched again"

    return arrived


@contextmanager
def children_hear_no_signal() -> Iterator[None]:
    """Processes that are started in the block leave it to this one to end them.

    A terminal's Ctrl-C goes to all of a group: they would print tracebacks of their own. Blocked, since that is handed
    on to a process from its first instruction on. This one hears a signal when the block is over, so that no process is
    started by halves.
    """
    resource_tracker.ensure_running()  # when multiprocessing starts it by itself, it lifts the block
    heard: list[int] = []
    # A block is one thread's: where another, such as numpy's, takes the signal, the main one is interrupted by it.
    main = threading.current_thread() is threading.main_thread()
    try:
        with handled(lambda signum, frame: heard.append(signum)) if main else nullcontext():
            before = signal.pthread_sigmask(signal.SIG_BLOCK, _SIGNALS)
            try:
                yield
            finally:
                signal.pthread_sigmask(signal.SIG_SETMASK, before)
    finally:
        for signum in heard[:1]:
            signal.raise_signal(signum)
