"""How many processes train a run, how many may, and how the threads of each wait for one another."""

import os
from collections.abc import MutableMapping
from typing import Literal

from pipeline.errors import UserError
from pipeline.params import Plan

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


def number_of_processes(plan: Plan, run_id: str, asked: Literal["auto"] | int | None) -> int:
    """The protocol's number where none is asked for. auto: one for each GPU, and where there is none the protocol's.

    Raises UserError unless this number of processes trains what the run's protocol says, but for rounding.
    """
    run = plan.run(run_id)
    protocol = plan.protocols[run.protocol]
    if asked == "auto":
        import torch

        asked = torch.cuda.device_count() if plan.device != "cpu" and torch.cuda.is_available() else None
    processes = asked or protocol.processes
    if processes == protocol.processes:
        return processes
    number, its = (f"{n} process{'es' if n > 1 else ''}" for n in (processes, protocol.processes))
    said = f"run {run_id} by {number}: its protocol {run.protocol} says {protocol.processes}"
    there = f"there (another run); or take {its}"
    if protocol.batch_norm == "per-process":
        raise UserError(
            f"{said}, and each normalises by its own share of a mini-batch",
            f"set processes: {processes} or batch_norm: synchronised {there}",
        )
    if run.network.endswith("-dropout"):
        raise UserError(f"{said}, and each draws its own dropout masks", f"set processes: {processes} {there}")
    if processes > protocol.batch_size:
        raise UserError(f"{said}, and a mini-batch has {protocol.batch_size} images", "take fewer processes")
    return processes
