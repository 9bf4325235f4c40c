"""Runs in jobs of their own: on slots of this machine or, through submitit, on a Slurm cluster; and what each of them
does, `python -m pipeline.runner.jobs RUN FINGERPRINT STAGE`.

A job trains and evaluates into scratch/<fingerprint>/ only. DVC's lock, dvc.lock and the tracking database are the
driver's (pipeline/runner/job_driver.py), so any number of jobs run beside each other.
"""

import getpass
import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from contextlib import ExitStack, suppress
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal

from pipeline.artifacts import SCRATCH, fingerprint_of
from pipeline.atomic_write import new_folder
from pipeline.errors import UserError, WrnPipeError, exit_on_error
from pipeline.params import Plan
from pipeline.provenance import dependencies, digests_of, fingerprint
from pipeline.runner.attempts import forget_failure_record, hold, keep_failure_record
from pipeline.runner.interruptions import children_hear_no_signal, seconds, stop_training_at_once
from pipeline.runner.launch import Task, train
from pipeline.runner.params_file import load
from pipeline.training.processes import number_of_processes, wait_briefly

JOBS = SCRATCH / "jobs"
RECORDS = JOBS / "slurm"
"""submitit's, of each job that it has submitted. By these a second driver finds the jobs of a first one that was
stopped, and submits nothing twice; a local job needs none: who trains has the run's lock."""
_AT_WORK = {"RUNNING", "COMPLETING", "CONFIGURING", "SIGNALING", "STAGE_OUT"}
"""Slurm's states of a job that has a node; squeue lists none that are over."""
_ARRAY = 1000
"""Jobs in one array: Slurm's own limit, MaxArraySize, is 1001 unless somebody has set it."""
_GRACE_S = 120
"""From the signal before a job's time is over to its end: enough to finish a step and save."""


@dataclass(frozen=True)
class Work:
    """One run to bring to its end."""

    run: str
    fingerprint: str
    stage: Literal["train", "evaluate"]
    """train: train and evaluate; evaluate: what lies in models/<run>."""

    @property
    def stages(self) -> list[str]:
        """DVC's names of all that it does."""
        return [f"{stage}@{self.run}" for stage in ("train", "evaluate")[self.stage == "evaluate" :]]

    @property
    def command(self) -> list[str]:
        return [sys.executable, "-m", "pipeline.runner.jobs", self.run, self.fingerprint, self.stage]


@dataclass(frozen=True)
class Job(Work):
    """One attempt at it."""

    id: str
    """Slurm's, such as 12 or 12_3; of a local job its process."""
    log: str
    """Path of what it prints."""
    slurm: bool = False
    activity: Literal["running", "queued"] = "running"

    def __str__(self) -> str:
        return f"job {self.id}" if self.slurm else f"process {self.id}"


@dataclass
class Slot:
    """What one job on this machine has to itself, and the last that had it."""

    gpu: str | None
    """As CUDA_VISIBLE_DEVICES names it: a number, or the id of a GPU or of a part of one."""
    cores: tuple[int, ...]
    """Empty with a GPU: its trainings take little of the CPU, and their threads stay as many as without slots."""
    job: Job | None = None
    process: "subprocess.Popen[bytes] | None" = None

    @property
    def is_free(self) -> bool:
        return self.process is None or self.process.poll() is not None

    def start(self, work: Work) -> Job:
        environment = dict(os.environ)
        if self.gpu is not None:
            environment["CUDA_VISIBLE_DEVICES"] = self.gpu
        if self.cores:
            environment.setdefault("OMP_NUM_THREADS", str(len(self.cores)))
        JOBS.mkdir(parents=True, exist_ok=True)
        log = JOBS / f"{work.run}.log"
        with log.open("ab") as file:
            self.process = subprocess.Popen(
                work.command,
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=file,
                stderr=subprocess.STDOUT,
                # Of a terminal's Ctrl-C the driver tells the trainings; one that is told twice ends at once.
                start_new_session=True,
                preexec_fn=partial(os.sched_setaffinity, 0, self.cores) if self.cores else None,
            )
        self.job = Job(**asdict(work), id=str(self.process.pid), log=str(log))
        return self.job


@dataclass
class Slots:
    """This machine, shared out: each slot has its own GPU or its own cores."""

    slots: Sequence[Slot]
    poll_s = 0.5

    def local(self) -> dict[str, Job]:
        """Fingerprint -> job, of those that are not over."""
        return {slot.job.fingerprint: slot.job for slot in self.slots if slot.job and not slot.is_free}

    def free(self) -> int:
        """How many jobs it takes now."""
        return sum(slot.is_free for slot in self.slots)

    def submit(self, works: Sequence[Work]) -> list[Job]:
        """One job for each, at most as many as are free."""
        free = [slot for slot in self.slots if slot.is_free]
        return [slot.start(work) for slot, work in zip(free, works, strict=False)]


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
    poll_s = 10.0  # of squeue, which all users ask

    def free(self) -> int:
        return 1_000_000

    def local(self) -> dict[str, Job]:
        return {}

    def submit(self, works: Sequence[Work]) -> list[Job]:
        """One job for each, in arrays. Raises UserError when they are refused."""
        from submitit import SlurmExecutor
        from submitit.core.utils import FailedJobError, FailedSubmissionError

        arrays = [works[start : start + _ARRAY] for start in range(0, len(works), _ARRAY)]
        executor = SlurmExecutor(folder=RECORDS, max_num_timeout=10_000)  # times that a job saves and goes on
        executor.update_parameters(
            job_name="wrn-pipe",
            array_parallelism=max(1, self.max_jobs // len(arrays)),
            signal_delay_s=_GRACE_S,
            stderr_to_stdout=True,
            use_srun=True,  # without srun the signal reaches nobody
            **self.options,
        )
        try:
            with children_hear_no_signal():
                made = [job for array in arrays for job in executor.submit_array([Attempt(work) for work in array])]
        except (FailedJobError, FailedSubmissionError) as error:
            said = str(error).strip().splitlines() or ["no reason given"]
            remedy = "correct --partition, --gpus, --cpus, --time or --sbatch; sinfo shows what the cluster has"
            raise UserError(f"sbatch refused the jobs: {said[-1]}", remedy) from error
        return [
            Job(**asdict(work), id=job.job_id, log=os.path.relpath(job.paths.stdout), slurm=True)
            for work, job in zip(works, made, strict=True)
        ]


Place = Slots | Slurm


@dataclass
class Attempt:
    """What submitit runs on a node, as it pickles it: a child process that trains, since that answers SIGTERM by
    finishing its step and saving, which a signal handler in the middle of the step could not do."""

    work: Work
    pid: int | None = field(default=None, init=False)

    def __call__(self) -> None:
        """Wait for the child's end. Raises RuntimeError with its exit code unless that is 0."""
        environment = dict(os.environ)
        wait_briefly(environment)  # a cluster may not hand on the driver's
        environment.setdefault("OMP_NUM_THREADS", os.environ.get("SLURM_CPUS_PER_TASK", "1"))
        # Slurm signals every process of a job: the one that is meant for submitit must not kill the training.
        child = subprocess.Popen(
            self.work.command,
            env=environment,
            preexec_fn=partial(signal.signal, signal.SIGUSR2, signal.SIG_IGN),
            stdin=subprocess.DEVNULL,
        )
        self.pid = child.pid
        os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)  # no lock is held: a handler may wait as well
        code = child.wait()
        if code in (128 + signal.SIGTERM, -signal.SIGTERM):
            # The cluster wants the node back: it preempts, cancels or drains. A job that ends by itself now would count
            # as over, one that is still there is put back into the queue.
            time.sleep(600)
        if code:
            raise RuntimeError(f"{self.work.run}: exit code {code}")

    def checkpoint(self) -> Any:
        """Called in the handler of submitit's signal: let the training save, then be submitted again."""
        from submitit.helpers import DelayedSubmission

        if self.pid is not None:
            with suppress(ProcessLookupError, ChildProcessError):  # it has ended and was waited for
                os.kill(self.pid, signal.SIGTERM)
                os.waitid(os.P_PID, self.pid, os.WEXITED | os.WNOWAIT)
        # Should the job not start again, the driver must not find that it was stopped.
        for stage in self.work.stages:
            forget_failure_record(stage)
        return DelayedSubmission(Attempt(self.work))


def need_slurm() -> None:
    """Raise UserError without submitit and away from a login node, WrnPipeError where the cluster does not answer."""
    if find_spec("submitit") is None:
        raise UserError("--slurm needs the package submitit", "pip install 'wrn-pipe[cluster]'")
    slurm_queue()


def minutes(text: str) -> int:
    """Of a time such as 8h, 90m or 1d12h. Raises UserError for anything else, and for less time than saving needs."""
    total = seconds(text, "--time")
    if total < 2 * _GRACE_S:
        raise UserError(f"--time {text} is too short", f"a job saves {_GRACE_S} s before its end: give at least 4m")
    return total // 60


def record_of(job_id: str) -> Path:
    return RECORDS / f"{job_id}_submitted.pkl"


def cluster_jobs() -> dict[str, Job]:
    """Fingerprint -> its job, of this checkout's jobs on the cluster that are not over.

    Raises WrnPipeError when Slurm does not answer.
    """
    if not any(RECORDS.glob(record_of("*").name)):
        return {}
    from submitit.core.utils import DelayedSubmission

    found = {}
    for job_id, state in slurm_queue().items():
        if record_of(job_id).is_file():
            attempt: Any = DelayedSubmission.load(record_of(job_id)).function  # an Attempt
            log = str(RECORDS / f"{job_id}_0_log.out")
            job = Job(**asdict(attempt.work), id=job_id, log=log, slurm=True)
            found[job.fingerprint] = job if state in _AT_WORK else replace(job, activity="queued")
    return found


def slurm_queue() -> dict[str, str]:
    """Job id -> state, of this user's jobs that are not over. Raises WrnPipeError without an answer from Slurm."""
    words = ("squeue", "--noheader", "--array", "--user", getpass.getuser(), "--format", "%i %T")
    try:  # in a session of its own: a terminal's Ctrl-C is for the driver
        asked = subprocess.run(words, capture_output=True, text=True, check=False, start_new_session=True)
    except FileNotFoundError:
        remedy = "run it on a login node of the cluster; on this machine wrn-pipe repro --jobs N trains in jobs"
        raise UserError("squeue, which lists the jobs of Slurm, was not found", remedy) from None
    if asked.returncode != 0:
        lines = asked.stderr.strip().splitlines() or [f"exit code {asked.returncode}"]
        raise WrnPipeError(f"squeue: {lines[0]}", "wait for Slurm to answer, then give the same command again")
    return dict(line.split(maxsplit=1) for line in asked.stdout.splitlines())


def trained(print_of_run: str) -> Path:
    """Where a job leaves the files of models/<run>: all of them or none."""
    return SCRATCH / print_of_run / "trained"


def evaluated(plan: Plan, run_id: str, print_of_run: str) -> Path:
    """Where a job leaves the files of evaluations/<run>. The name says by which code and data, so that an evaluation by
    what was edited meanwhile is not taken for one by what is there now."""
    settings = {"loading": plan.loading.model_dump(mode="json"), "device": plan.device}
    paths = dependencies("evaluate", run_id, plan.run(run_id).model_dump(mode="json"))
    digests = [digests_of(path) for path in paths if path.parts[0] != "models"]
    content = {file: digest for listed in digests for file, digest in listed.items()}
    return SCRATCH / print_of_run / f"evaluated-{fingerprint_of(settings, content)[:16]}"


def main(run_id: str, print_of_run: str, stage: str) -> None:
    """Bring one run to its end. Raises UserError when its inputs are not those that the job was submitted for."""
    plan, scratch = load(), SCRATCH / print_of_run
    with ExitStack() as until_the_end:
        with keep_failure_record(f"train@{run_id}"), stop_training_at_once(run_id):
            # Held through both stages: between them a driver would think that nobody brings this run to its end.
            until_the_end.enter_context(hold(scratch, run_id, wait=True))
            if fingerprint(plan, run_id) != print_of_run:
                what = f"run {run_id}: settings, code or data were edited after this job was submitted"
                raise UserError(what, "wrn-pipe repro as before submits what is there now")
            if stage == "train" and not trained(print_of_run).is_dir():
                task = Task(run_id, print_of_run, trained(print_of_run))
                train(plan, task, number_of_processes(plan, run_id, None))
        with keep_failure_record(f"evaluate@{run_id}"), stop_training_at_once(run_id):
            from pipeline.training.evaluate_run import evaluate

            weights = trained(print_of_run) if stage == "train" else Path("models") / run_id
            with new_folder(evaluated(plan, run_id, print_of_run)) as work:
                evaluate(plan, run_id, weights, work)


if __name__ == "__main__":
    with exit_on_error():
        main(*sys.argv[1:])
