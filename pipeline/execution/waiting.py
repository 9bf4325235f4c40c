"""How a training's threads wait for each other, so that others at work on the same cores do not cost it too much."""

import os
from collections.abc import MutableMapping

POLICY = {"GOMP_SPINCOUNT": "10000"}
"""A thread that has done its part spins for about 0.1 ms, then sleeps. By default it spins for milliseconds, on a core
that the operating system could give to a neighbour or to the thread that it waits for; with OMP_WAIT_POLICY=passive it
sleeps at once, and a step of WRN-40-1 on two idle cores takes a fifth longer, 126 ms against 155. With this: 127 ms.
Sums are the same to the bit. `wrn-pipe bench neighbours` measures it."""
USERS_OWN = ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT", "KMP_BLOCKTIME", "KMP_LIBRARY")
"""What of the user's own has a say in it."""


def wait_briefly(environment: MutableMapping[str, str] = os.environ) -> None:
    """Set POLICY in `environment` unless the user has set how threads wait.

    OpenMP reads it when torch is imported: later it is for child processes only.
    """
    if not any(name in environment for name in USERS_OWN):
        environment.update(POLICY)
