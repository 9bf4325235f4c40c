"""How a training's threads wait for each other and where they run, so that other processes on the same cores cost it
little. Sums are the same to the bit."""

import os
import sys
import threading
import time
from collections.abc import Iterator, MutableMapping
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

POLICY = {"GOMP_SPINCOUNT": "30000"}
"""A thread that has done its part spins for about 0.3 ms, then sleeps. By default it spins for milliseconds, on a core
that could do something else; with OMP_WAIT_POLICY=passive it sleeps at once, and a step of WRN-40-1 on two idle cores
takes a quarter longer."""
USERS_OWN = ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT", "KMP_BLOCKTIME", "KMP_LIBRARY")
"""Where the user has set one of these, it stays."""
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

    Left to itself the operating system moves two threads onto one core when another process appears, where one of them
    spins while the other one could compute. Threads are bound where there is one for each core that this process may
    use: with fewer, two trainings would take the same. Not where the user has set it; not for compiled `kernels`, since
    compilers run where the thread may that calls them; not after torch is imported, which is when OpenMP reads it.

    OpenMP binds the main thread as well, and so all that it starts later: it is set free again, but for `on_own_core`.
    """
    if kernels == "compiled" or "torch" in sys.modules or any(name in os.environ for name in USERS_OWN_BINDING):
        return False
    cores = os.sched_getaffinity(0)
    threads = os.environ.get("OMP_NUM_THREADS")
    if len(cores) == 1 or threads not in (None, str(len(cores))):
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


_TASKS = Path("/proc/self/task")
_LOOK_S, _CALM_LOOKS = 1.0, 2
_CONTENDED, _CALM = 0.1, 0.03
"""Of the time, in which the thread that waited most was ready to compute and another one had its core."""
_CROWDED_BOUND, _CROWDED_FREE = 0.42, 0.32
"""The same, as the mean of all threads, bound and free: so much they wait where no core is free for them to go to."""


class Yielding(ExitStack):
    """Lets a training's threads make way while other processes are busy on their cores.

    Alone, threads are fastest that stay on their cores and spin while they wait. Beside a busy process a step then
    takes as long as the thread that shares its core. So as soon as a thread has to wait for its core, all make way,
    until nobody disturbs them any more or every core is taken. It is for networks whose threads wait for each other in
    OpenMP only (kernels/apply.py): others lose milliseconds each time when two of them share a core.
    """

    def __init__(self) -> None:
        super().__init__()
        own = any(os.environ.get(name, POLICY.get(name)) != POLICY.get(name) for name in USERS_OWN)
        self._able = bool(_own_core) and not own and Path("/proc/self/schedstat").is_file()
        self._looked, self._before = time.monotonic(), _waited() if self._able else {}
        self._calm_looks, self.makes_way = 0, False
        self._bound: dict[int, set[int]] = {}

    def look(self) -> None:
        """To be called between steps, by the main thread; looks about once in a second."""
        elapsed = time.monotonic() - self._looked
        if not self._able or elapsed < _LOOK_S:
            return
        waited = _waited()
        compute = waited.keys() & self._before.keys() & {threading.get_native_id(), *(self._bound or _bound())}
        shares = [(waited[thread] - self._before[thread]) / elapsed for thread in compute]
        self.judge(max(shares), sum(shares) / len(shares))
        self._looked, self._before = time.monotonic(), waited

    def judge(self, most: float, mean: float) -> None:
        """Make way or no longer, by the shares of the time that the threads have waited for their cores."""
        if not self.makes_way:
            if most > _CONTENDED and mean < _CROWDED_BOUND:
                self._calm_looks, self.makes_way = 0, True
                self._bound = self.enter_context(_way_made())
            return
        self._calm_looks = self._calm_looks + 1 if most < _CALM else 0
        if self._calm_looks == _CALM_LOOKS or mean > _CROWDED_FREE:
            self.close()
            self.makes_way, self._bound = False, {}


@contextmanager
def _way_made() -> Iterator[dict[int, set[int]]]:
    """While the block runs, threads may go to any core and sleep as soon as they wait. The value is where they belong.

    How long to spin OpenMP reads once, at its start. But GNU's spins 100 times at most while it has more threads than
    there are cores (libgomp's manual, GOMP_SPINCOUNT), so some more that sleep are kept for as long.
    """
    bound, main, end = _bound(), set(_own_core), threading.Event()

    def sleep_among_threads() -> None:
        import torch

        torch.zeros(1 << 20).fill_(1.0)  # which gives this thread some of OpenMP's for its own
        end.wait()

    helper = threading.Thread(target=sleep_among_threads)
    _move(dict.fromkeys(bound, os.sched_getaffinity(0)))
    _own_core.clear()
    helper.start()
    try:
        yield bound
    finally:
        end.set()
        helper.join()
        _move(bound)
        _own_core.update(main)


def _move(threads: dict[int, set[int]]) -> None:
    for thread, where in threads.items():
        with suppress(ProcessLookupError):
            os.sched_setaffinity(thread, where)


def _bound() -> dict[int, set[int]]:
    """Thread of this process -> where it may run, of those that may not run wherever the main thread may."""
    cores, found = os.sched_getaffinity(0), {}
    for thread in map(int, os.listdir(_TASKS)):
        with suppress(ProcessLookupError):
            if len(own := os.sched_getaffinity(thread)) < len(cores):
                found[thread] = own
    return found


def _waited() -> dict[int, float]:
    """Thread of this process -> seconds that it was ready to run and had no core."""
    found = {}
    for task in os.listdir(_TASKS):
        with suppress(FileNotFoundError, ProcessLookupError):
            found[int(task)] = int((_TASKS / task / "schedstat").read_text().split()[1]) / 1e9
    return found
