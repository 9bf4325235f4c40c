"""How many processes train a run, and how many may."""

from typing import Literal

from pipeline.errors import UserError
from pipeline.params import Plan


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
    said = f"run {run_id} by {_number(processes)}: its protocol {run.protocol} says {protocol.processes}"
    there = f"there (another run); or take {_number(protocol.processes)}"
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


def _number(processes: int) -> str:
    return "1 process" if processes == 1 else f"{processes} processes"
