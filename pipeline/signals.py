"""SIGINT and SIGTERM, while a block of code has its own answer to them."""

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from types import FrameType

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


@contextmanager
def children_hear_no_signal() -> Iterator[None]:
    """Processes that are started in the block leave it to this one to end them.

    A terminal's Ctrl-C goes to all of a group: they would print tracebacks of their own. Blocked, since that is handed
    on to a process from its first instruction on. This one hears a signal when the block is over, so that no process is
    started by halves.
    """
    from multiprocessing import resource_tracker  # takes a tenth of the time of --help

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
