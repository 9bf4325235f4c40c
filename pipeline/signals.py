"""SIGINT and SIGTERM, while a block of code has its own answer to them."""

import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType


@contextmanager
def handled(handler: Callable[[int, FrameType | None], None]) -> Iterator[None]:
    """Let `handler` answer both, and afterwards whatever answered before."""
    before = {s: signal.signal(s, handler) for s in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for signum, kept in before.items():
            signal.signal(signum, kept)


@contextmanager
def noted() -> Iterator[list[int]]:
    """Those of them that come while the block runs, which goes on."""
    received: list[int] = []

    def note(signum: int, frame: FrameType | None) -> None:
        received.append(signum)

    with handled(note):
        yield received
