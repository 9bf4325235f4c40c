"""How work ends at once by a signal; trainings, which save their state: pipeline/runner/training_interruptions.py."""

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

from pipeline.errors import StoppedError, WrnPipeError
from pipeline.signals import handled

NOTHING_HALF_DONE = "nothing half-done is left"


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
