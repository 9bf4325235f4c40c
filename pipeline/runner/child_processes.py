"""Whether a process lives, and those of ours below one, to be told to end."""

from collections.abc import Iterable
from contextlib import suppress

import psutil


def is_alive(pid: int) -> bool:
    """Whether that process can still do anything: not a zombie, which has ended and waits for its parent to notice."""
    with suppress(psutil.NoSuchProcess):
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    return False


def modules_below(pid: int, prefix: str) -> list[psutil.Process]:
    """All processes below `pid` that run `python -m MODULE`, of modules whose names start so; not DVC or submitit."""
    found = []
    with suppress(psutil.NoSuchProcess):
        for process in psutil.Process(pid).children(recursive=True):
            with suppress(psutil.NoSuchProcess):  # it has ended meanwhile, or is a zombie
                if any(word.startswith(prefix) for word in process.cmdline()[:3]):
                    found.append(process)
    return found


def terminate(processes: Iterable[psutil.Process]) -> None:
    """Send SIGTERM to those that have not ended yet."""
    for process in processes:
        with suppress(psutil.NoSuchProcess):
            process.terminate()
