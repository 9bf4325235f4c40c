"""Where jobs run, through submitit: slots of this machine, or a Slurm cluster."""

import os
import platform
import re
import shutil
import signal
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import psutil

from pipeline.errors import UserError
from pipeline.runner.job import Stage
from pipeline.runner.jobs import JOBS, Job, System, slurm_queue

if TYPE_CHECKING:
    from submitit import Job as Submitted

_ARRAY = 1000
"""Jobs in one array: Slurm's own limit, MaxArraySize, is 1001 unless somebody has set it."""
_TIMEOUTS = 10_000
"""A training may take many times a job's time: each time it saves, is put back into the queue and goes on."""
_GRACE_S = 120
"""From the signal before a job's time is over to its end: enough to finish a step and save."""


@dataclass(frozen=True)
class Work:
    """One run to bring to its end."""

    run: str
    fingerprint: str
    stage: Stage

    @property
    def stages(self) -> list[str]:
        """DVC's names of all that it does."""
        return [f"{stage}@{self.run}" for stage in ("train", "evaluate")[self.stage == "evaluate" :]]


class Place(Protocol):
    """Takes work and makes jobs of it."""

    @property
    def system(self) -> System: ...

    def free(self) -> int:
        """How many jobs it takes now."""

    def submit(self, works: Sequence[Work], attempt: int) -> list[Job]:
        """One job for each. Raises UserError when they are refused."""


@dataclass
class Slots:
    """This machine, shared out: each slot has its own GPU or its own cores, and its own executor."""

    slots: Sequence["Slot"]
    system: System = "local"
    taken: dict[int, "Submitted[None]"] = field(default_factory=dict)
    """Slot -> the job in it."""

    def free(self) -> int:
        for number, job in list(self.taken.items()):
            if job.done():  # which also reaps it
                del self.taken[number]
        return len(self.slots) - len(self.taken)

    def submit(self, works: Sequence[Work], attempt: int) -> list[Job]:
        from submitit import LocalExecutor

        from pipeline.runner.attempt import Attempt

        jobs = []
        executor = LocalExecutor(folder=JOBS / "local", max_num_timeout=_TIMEOUTS)
        executor.update_parameters(timeout_min=10**6, stderr_to_stdout=True)
        for work in works:
            number = min(set(range(len(self.slots))) - self.taken.keys())
            slot = self.slots[number]
            with _no_interrupts():  # a terminal's Ctrl-C is for the driver, which tells the trainings
                made = executor.submit(Attempt(work.run, work.fingerprint, work.stage, slot.cores, slot.gpu))
            self.taken[number] = made
            started = psutil.Process(int(made.job_id)).create_time()
            jobs.append(_job(work, "local", made.job_id, started, made.paths.stdout, attempt))
        return jobs


@dataclass(frozen=True)
class Slot:
    """What one job on this machine has to itself."""

    gpu: str | None
    """As CUDA_VISIBLE_DEVICES names it: a number, or the id of a GPU or of a part of one."""
    cores: tuple[int, ...]
    """Empty with a GPU: its trainings take little of the CPU, and their threads stay as many as without slots."""


def slots(count: int, gpus: Sequence[str]) -> list[Slot]:
    """`count` slots over these GPUs, in turns, or with none over the cores that this process may use, in equal parts.

    Raises UserError when there are fewer cores than slots.
    """
    if gpus:
        return [Slot(gpus[number % len(gpus)], ()) for number in range(count)]
    cores = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else list(range(os.cpu_count() or 1))
    if count > len(cores):
        raise UserError(f"--jobs {count} on {len(cores)} cores", f"--jobs {len(cores)} is the most: a job needs a core")
    each = len(cores) // count
    return [Slot(None, tuple(cores[number * each : (number + 1) * each])) for number in range(count)]


@dataclass(frozen=True)
class Slurm:
    """A cluster, through sbatch; jobs wait there, not here."""

    minutes: int
    """After so many a job saves and is put back into the queue."""
    max_jobs: int
    """So many of an array run at the same time."""
    partition: str | None = None
    gpus: int = 0
    cpus: int = 1
    options: tuple[tuple[str, str], ...] = ()
    """Further options of sbatch, without their dashes."""
    system: System = "slurm"

    def free(self) -> int:
        return 1_000_000

    def submit(self, works: Sequence[Work], attempt: int) -> list[Job]:
        from submitit import SlurmExecutor
        from submitit.core.utils import FailedJobError, FailedSubmissionError

        from pipeline.runner.attempt import Attempt

        jobs = []
        arrays = -(-len(works) // _ARRAY)
        executor = SlurmExecutor(folder=JOBS / "slurm", max_num_timeout=_TIMEOUTS)
        executor.update_parameters(**self._parameters(arrays))
        for start in range(0, len(works), _ARRAY):
            some = works[start : start + _ARRAY]
            try:
                with _no_interrupts(), executor.batch():
                    made = [executor.submit(Attempt(work.run, work.fingerprint, work.stage)) for work in some]
            except (FailedJobError, FailedSubmissionError) as error:
                said = str(error).strip().splitlines()
                raise UserError(
                    f"sbatch refused the jobs: {said[-1] if said else 'without a word'}",
                    "correct --partition, --gpus, --cpus, --time or --sbatch; sinfo shows what the cluster has",
                ) from error
            jobs += [
                _job(work, "slurm", job.job_id, time.time(), job.paths.stdout, attempt)
                for work, job in zip(some, made, strict=True)
            ]
        return jobs

    def _parameters(self, arrays: int) -> dict[str, Any]:
        parameters: dict[str, Any] = {
            "job_name": "wrn-pipe",
            "time": self.minutes,
            "cpus_per_task": self.cpus,
            "array_parallelism": max(1, self.max_jobs // arrays),
            "signal_delay_s": _GRACE_S,
            "stderr_to_stdout": True,
            "use_srun": True,  # without srun the signal reaches nobody
            "additional_parameters": {"requeue": True, **dict(self.options)},
        }
        if self.partition:
            parameters["partition"] = self.partition
        if self.gpus:
            parameters["gpus_per_node"] = self.gpus
        return parameters


def need_submitit() -> None:
    """Raises UserError where it is not installed."""
    from importlib.util import find_spec

    if find_spec("submitit") is None:
        raise UserError("--jobs and --slurm need the package submitit", "pip install 'wrn-pipe[cluster]'")


def need_slurm() -> None:
    """Raises UserError where this is no login node of a cluster, WrnPipeError where that does not answer."""
    for program in ("sbatch", "squeue", "srun"):
        if shutil.which(program) is None:
            raise UserError(
                f"--slurm needs {program}, which is not here",
                "run it on a login node of the cluster, or wrn-pipe repro --jobs N on this machine",
            )
    slurm_queue()


def minutes(text: str) -> int:
    """Of a time such as 8h, 90m or 1d12h. Raises UserError for anything else, and for less time than saving needs."""
    found = re.fullmatch(r"(?:(\d+)d)?(?:(\d+)h)?(?:(\d+)m)?", text)
    if not text or found is None:
        raise UserError(f"--time {text!r} is no time", "write days, hours and minutes: 8h, 90m or 1d12h")
    total = sum(int(part or 0) * unit for part, unit in zip(found.groups(), (1440, 60, 1), strict=True))
    if total * 60 < 2 * _GRACE_S:
        raise UserError(f"--time {text} is too short", f"a job saves {_GRACE_S} s before its end: give at least 4m")
    return total


def visible_gpus() -> list[str]:
    """The GPUs that torch sees, by the names that show them to a process."""
    import torch

    named = os.environ.get("CUDA_VISIBLE_DEVICES")
    count = torch.cuda.device_count()
    return [name.strip() for name in named.split(",")][:count] if named else [str(number) for number in range(count)]


def _job(work: Work, system: System, job_id: str, started: float, log: Path, attempt: int) -> Job:
    shown = log.relative_to(Path.cwd()) if log.is_relative_to(Path.cwd()) else log
    return Job(
        work.run, work.fingerprint, work.stage, system, job_id, started, platform.node(), shown.as_posix(), attempt
    )


@contextmanager
def _no_interrupts() -> Iterator[None]:
    """Processes that the block starts do not notice Ctrl-C."""
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
