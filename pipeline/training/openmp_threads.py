"""How a training's threads wait for each other, so that other processes on the same cores cost it little."""

import os
from collections.abc import MutableMapping

POLICY = {"GOMP_SPINCOUNT": "30000"}
"""A thread that has done its part spins for about 0.3 ms, then sleeps. By default it spins for milliseconds, on a core
that could do something else; with OMP_WAIT_POLICY=passive it sleeps at once, and a step of WRN-40-1 on two idle cores
takes a quarter longer."""
USERS_OWN = ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT", "KMP_BLOCKTIME", "KMP_LIBRARY")
"""Where the user has set one of these, it stays."""


def wait_briefly(environment: MutableMapping[str, str] = os.environ) -> None:
    """Set POLICY in `environment` unless the user has set how threads wait.

    OpenMP reads it when torch is imported: later it is for child processes only.
    """
    if not any(name in environment for name in USERS_OWN):
        environment.update(POLICY)
