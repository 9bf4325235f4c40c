"""How a training's threads wait for each other and where they run, so that others at work on the same cores do not cost
it too much. `wrn-pipe bench neighbours` measures it; sums are the same to the bit."""

import os
import sys
from collections.abc import Iterator, MutableMapping
from contextlib import contextmanager
from pathlib import Path

POLICY = {"GOMP_SPINCOUNT": "10000"}
"""A thread that has done its part spins for about 0.1 ms, then sleeps. By default it spins for milliseconds, on a core
that the operating system could give to a neighbour or to the thread that it waits for; with OMP_WAIT_POLICY=passive it
sleeps at once, and a step of WRN-40-1 on two idle cores takes a fifth longer."""
USERS_OWN = ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT", "KMP_BLOCKTIME", "KMP_LIBRARY")
"""What of the user's own has a say in it."""
BINDING = {"OMP_PROC_BIND": "true", "OMP_PLACES": "cores"}
USERS_OWN_BINDING = (*BINDING, "GOMP_CPU_AFFINITY", "KMP_AFFINITY")

_own_core: set[int] = set()
"""Where OpenMP has put the main thread among the others; empty where they are not bound."""


def wait_briefly(environment: MutableMapping[str, str] = os.environ) -> None:
    """Set POLICY in `environment` unless the user has set how threads wait.

    OpenMP reads it when torch is imported: later it is for child processes only.
    """
    if not any(name in environment for name in USERS_OWN):
        environment.update(POLICY)


def bind_threads(kernels: str) -> bool:
    """Import torch such that each of its threads stays on a core of its own; False where they go where they like.

    Left to itself the operating system moves two threads onto one core when a neighbour appears, and each of a step's
    thousands of parallel sections waits for both. Threads are bound where there is one for each core that this process
    may use: with fewer, two trainings would take the same. Not where the user has set it; not for compiled `kernels`,
    since compilers run where the thread may that calls them; not after torch is imported, which is when OpenMP reads
    it.

    OpenMP binds the main thread as well, and with it all that it starts later, such as threads that read data. It is
    set free again here; see `on_own_core`.
    """
    if kernels == "compiled" or "torch" in sys.modules or any(name in os.environ for name in USERS_OWN_BINDING):
        return False
    cores = os.sched_getaffinity(0)
    threads = os.environ.get("OMP_NUM_THREADS")
    if len(cores) == 1 or threads not in (None, str(len(cores)), str(len({_siblings(core) for core in cores}))):
        return False
    os.environ.update(BINDING)
    try:
        import torch  # noqa: F401

        _own_core.update(os.sched_getaffinity(0))
    finally:
        os.sched_setaffinity(0, cores)
        for name in BINDING:  # not for another OpenMP, loaded later, nor for child processes
            del os.environ[name]
    return True


def _siblings(core: int) -> str:
    """The threads of the processor's own that share a core with this one, as torch counts cores."""
    listed = Path(f"/sys/devices/system/cpu/cpu{core}/topology/thread_siblings_list")
    return listed.read_text() if listed.is_file() else str(core)


@contextmanager
def on_own_core() -> Iterator[None]:
    """Keep the main thread on its core in this block, where `bind_threads` has bound the others to theirs."""
    if not _own_core:
        yield
        return
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, _own_core)
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)
