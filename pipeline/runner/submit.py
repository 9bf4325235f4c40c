"""Where jobs run: slots of this machine, or a Slurm cluster, through submitit."""

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipeline.errors import UserError
from pipeline.runner.interruptions import seconds
from pipeline.runner.job import JOBS, RECORDS, Job, Work, slurm_queue
from pipeline.runner.stage_entry import forget_failure_record
from pipeline.training.processes import wait_briefly

if TYPE_CHECKING:
    from submitit.helpers import DelayedSubmission

_ARRAY = 1000
"""Jobs in one array: Slurm's own limit, MaxArraySize, is 1001 unless somebody has set it."""
_TIMEOUTS = 10_000
"""Times that a job saves, is put back into the queue and goes on."""
_GRACE_S = 120
"""From the signal before a job's time is over to its end: enough to finish a step and save."""
_PATIENCE_S = 600.0
"""How long a job that the cluster has told to end waits for the cluster to end it, or to take it back."""


@dataclass(frozen=True)
class Slot:
    """What one job on this machine has to itself."""

    gpu: str | None
    """As CUDA_VISIBLE_DEVICES names it: a number, or the id of a GPU or of a part of one."""
    cores: tuple[int, ...]
    """Empty with a GPU: its trainings take little of the CPU, and their threads stay as many as without slots."""


@dataclass
class Slots:
    """This machine, shared out: each slot has its own GPU or its own cores."""

    slots: Sequence[Slot]
    poll_s = 0.5
    taken: dict[int, tuple[Job, "subprocess.Popen[bytes]"]] = field(default_factory=dict)
    """Slot -> its last job."""

    def local(self) -> dict[str, Job]:
        """Fingerprint -> job, of those that are not over."""
        return {job.fingerprint: job for job, process in self.taken.values() if process.poll() is None}

    def free(self) -> int:
        """How many jobs it takes now."""
        return len(self.slots) - len(self.local())

    def submit(self, works: Sequence[Work]) -> list[Job]:
        """One job for each, at most as many as are free."""
        JOBS.mkdir(parents=True, exist_ok=True)
        made = []
        for work in works:
            busy = {number for number, (_, process) in self.taken.items() if process.poll() is None}
            number = min(set(range(len(self.slots))) - busy)
            log = JOBS / f"{work.run}.log"
            process = _start(work, self.slots[number], log)
            made.append(Job(**asdict(work), id=str(process.pid), log=str(log)))
            self.taken[number] = made[-1], process
        return made


def _start(work: Work, slot: Slot, log: Path) -> "subprocess.Popen[bytes]":
    environment = dict(os.environ)
    if slot.gpu is not None:
        environment["CUDA_VISIBLE_DEVICES"] = slot.gpu
    if slot.cores:
        environment.setdefault("OMP_NUM_THREADS", str(len(slot.cores)))
    with log.open("ab") as file:
        return subprocess.Popen(
            _command(work),
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=file,
            stderr=subprocess.STDOUT,
            # Of a terminal's Ctrl-C the driver tells the trainings; one that is told twice ends at once.
            start_new_session=True,
            preexec_fn=partial(os.sched_setaffinity, 0, slot.cores) if slot.cores else None,
        )


def _command(work: Work) -> list[str]:
    return [sys.executable, "-m", "pipeline.runner.job", work.run, work.fingerprint, work.stage]


def slots(count: int, gpus: Sequence[str]) -> list[Slot]:
    """`count` slots over these GPUs, in turns, or with none over the cores that this process may use, in equal parts.
    Raises UserError when there are fewer cores than slots."""
    if gpus:
        return [Slot(gpus[number % len(gpus)], ()) for number in range(count)]
    cores = sorted(os.sched_getaffinity(0))
    if count > len(cores):
        raise UserError(f"--jobs {count} on {len(cores)} cores", f"--jobs {len(cores)} is the most: a job needs a core")
    each = len(cores) // count
    return [Slot(None, tuple(cores[number * each : (number + 1) * each])) for number in range(count)]


def visible_gpus() -> list[str]:
    """The GPUs that torch sees, by the names that show them to a process."""
    import torch

    named = os.environ.get("CUDA_VISIBLE_DEVICES")
    count = torch.cuda.device_count()
    return [name.strip() for name in named.split(",")][:count] if named else [str(number) for number in range(count)]


@dataclass(frozen=True)
class Slurm:
    """A cluster, through sbatch; jobs wait there, not here, and `max_jobs` run at the same time."""

    max_jobs: int
    options: dict[str, Any]
    """Of sbatch, as submitit names them. After `time` a job saves and is put back into the queue."""
    poll_s = 10.0
    """Of squeue, which all users ask."""

    def free(self) -> int:
        return 1_000_000

    def local(self) -> dict[str, Job]:
        return {}

    def submit(self, works: Sequence[Work]) -> list[Job]:
        """One job for each, in arrays. Raises UserError when they are refused."""
        from submitit import SlurmExecutor
        from submitit.core.utils import FailedJobError, FailedSubmissionError

        arrays = [works[start : start + _ARRAY] for start in range(0, len(works), _ARRAY)]
        executor = SlurmExecutor(folder=RECORDS, max_num_timeout=_TIMEOUTS)
        executor.update_parameters(
            job_name="wrn-pipe",
            array_parallelism=max(1, self.max_jobs // len(arrays)),
            signal_delay_s=_GRACE_S,
            stderr_to_stdout=True,
            use_srun=True,  # without srun the signal reaches nobody
            **self.options,
        )
        made = []
        before = signal.signal(signal.SIGINT, signal.SIG_IGN)  # a terminal's Ctrl-C is for the driver, not for sbatch
        try:
            for array in arrays:
                made += executor.submit_array([Attempt(work) for work in array])
        except (FailedJobError, FailedSubmissionError) as error:
            said = str(error).strip().splitlines() or ["no reason given"]
            raise UserError(
                f"sbatch refused the jobs: {said[-1]}",
                "correct --partition, --gpus, --cpus, --time or --sbatch; sinfo shows what the cluster has",
            ) from error
        finally:
            signal.signal(signal.SIGINT, before)
        return [
            Job(**asdict(work), id=job.job_id, log=os.path.relpath(job.paths.stdout), slurm=True)
            for work, job in zip(works, made, strict=True)
        ]


Place = Slots | Slurm
"""Takes work and makes jobs of it."""


@dataclass
class Attempt:
    """What submitit runs on a node, as it pickles it: a child process that trains, since that answers SIGTERM by
    finishing its step and saving, which a signal handler in the middle of the step could not do."""

    work: Work
    child: int | None = field(default=None, init=False, compare=False)
    """Its process id."""

    def __call__(self) -> None:
        """Wait for the child's end. Raises RuntimeError with its exit code unless that is 0."""
        environment = dict(os.environ)
        wait_briefly(environment)  # a cluster may not hand on the driver's
        environment.setdefault("OMP_NUM_THREADS", os.environ.get("SLURM_CPUS_PER_TASK", "1"))
        # Slurm signals every process of a job: the one that is meant for submitit must not kill the training.
        child = subprocess.Popen(
            _command(self.work),
            env=environment,
            preexec_fn=partial(signal.signal, signal.SIGUSR2, signal.SIG_IGN),
            stdin=subprocess.DEVNULL,
        )
        self.child = child.pid
        os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)  # no lock is held: a handler may wait as well
        code = child.wait()
        if code in (128 + signal.SIGTERM, -signal.SIGTERM):
            # The cluster wants the node back: it preempts, cancels or drains. A job that ends by itself now would count
            # as over, one that is still there is put back into the queue.
            time.sleep(_PATIENCE_S)
        if code:
            raise RuntimeError(f"{self.work.run}: exit code {code}")

    def checkpoint(self) -> "DelayedSubmission":
        """Called in the handler of submitit's signal: let the training save, then be submitted again."""
        from submitit.helpers import DelayedSubmission

        if self.child is not None:
            with suppress(ProcessLookupError, ChildProcessError):  # it has ended and was waited for
                os.kill(self.child, signal.SIGTERM)
                os.waitid(os.P_PID, self.child, os.WEXITED | os.WNOWAIT)
        # Should the job not start again, the driver must not find that it was stopped.
        for stage in self.work.stages:
            forget_failure_record(stage)
        return DelayedSubmission(Attempt(self.work))


def need_slurm() -> None:
    """Raise UserError without submitit and away from a login node, WrnPipeError where the cluster does not answer."""
    from importlib.util import find_spec

    if shutil.which("sbatch") is None:
        raise UserError(
            "--slurm needs sbatch, which was not found",
            "run it on a login node of the cluster, or wrn-pipe repro --jobs N on this machine",
        )
    if find_spec("submitit") is None:
        raise UserError("--slurm needs the package submitit", "pip install 'wrn-pipe[cluster]'")
    slurm_queue()


def minutes(text: str) -> int:
    """Of a time such as 8h, 90m or 1d12h. Raises UserError for anything else, and for less time than saving needs."""
    total = seconds(text, "--time")
    if total < 2 * _GRACE_S:
        raise UserError(f"--time {text} is too short", f"a job saves {_GRACE_S} s before its end: give at least 4m")
    return total // 60
