"""One run in a job of its own: `python -m pipeline.runner.job RUN FINGERPRINT STAGE`; and which jobs a cluster has.

It trains and evaluates into scratch/<fingerprint>/ only. DVC's lock, dvc.lock and the tracking database are the
driver's (pipeline/runner/job_driver.py), so any number of jobs run beside each other.
"""

import getpass
import json
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from hashlib import sha256
from pathlib import Path
from typing import Any, Literal

from pipeline.artifacts import SCRATCH
from pipeline.atomic_write import new_folder
from pipeline.errors import UserError, WrnPipeError, exit_on_error
from pipeline.params import Plan
from pipeline.provenance import dependencies, digests_of, fingerprint
from pipeline.runner.interruptions import stop_training_at_once
from pipeline.runner.launch import Task, train
from pipeline.runner.params_file import load
from pipeline.runner.run_lock import hold
from pipeline.runner.stage_entry import keep_failure_record
from pipeline.training.processes import number_of_processes

JOBS = SCRATCH / "jobs"
RECORDS = JOBS / "slurm"
"""submitit's, of each job that it has submitted. By these a second driver finds the jobs of a first one that was
stopped, and submits nothing twice; a local job needs none: who trains has the run's lock."""
FirstStage = Literal["train", "evaluate"]
"""train: train and evaluate; evaluate: what lies in models/<run>."""
_AT_WORK = {"RUNNING", "COMPLETING", "CONFIGURING", "SIGNALING", "STAGE_OUT"}
"""Slurm's states of a job that has a node; squeue lists none that are over."""


@dataclass(frozen=True)
class Work:
    """One run to bring to its end."""

    run: str
    fingerprint: str
    stage: FirstStage

    @property
    def stages(self) -> list[str]:
        """DVC's names of all that it does."""
        return [f"{stage}@{self.run}" for stage in ("train", "evaluate")[self.stage == "evaluate" :]]


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
            attempt: Any = DelayedSubmission.load(record_of(job_id)).function  # pipeline.runner.submit.Attempt
            log = str(RECORDS / f"{job_id}_0_log.out")
            job = Job(**asdict(attempt.work), id=job_id, log=log, slurm=True)
            found[job.fingerprint] = job if state in _AT_WORK else replace(job, activity="queued")
    return found


def slurm_queue() -> dict[str, str]:
    """Job id -> state, of all of this user's jobs that are not over. Raises WrnPipeError when Slurm does not answer."""
    words = ("squeue", "--noheader", "--array", "--user", getpass.getuser(), "--format", "%i %T")
    try:  # in a session of its own: a terminal's Ctrl-C is for the driver
        asked = subprocess.run(words, capture_output=True, text=True, check=False, start_new_session=True)
    except FileNotFoundError:
        raise WrnPipeError("squeue, which lists the jobs, not found", "ask on a login node of the cluster") from None
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
    settings = [plan.loading.model_dump(mode="json"), plan.device]
    content: dict[str, str] = {}
    for path in dependencies("evaluate", run_id, plan.run(run_id).model_dump(mode="json")):
        if path.parts[0] != "models":
            content |= digests_of(path)
    digest = sha256(json.dumps([settings, content], sort_keys=True).encode()).hexdigest()
    return SCRATCH / print_of_run / f"evaluated-{digest[:16]}"


def main(run_id: str, print_of_run: str, stage: str) -> None:
    """Bring one run to its end. Raises UserError when its inputs are not those that the job was submitted for."""
    plan = load()
    with _attempt("train", run_id, print_of_run):
        if fingerprint(plan, run_id) != print_of_run:
            raise UserError(
                f"run {run_id}: settings, code or data were edited after this job was submitted",
                "wrn-pipe repro as before submits what is there now",
            )
        if stage == "train" and not trained(print_of_run).is_dir():
            places = str(SCRATCH / print_of_run), str(trained(print_of_run))
            train(plan, Task(run_id, print_of_run, *places), number_of_processes(plan, run_id, None))
    with _attempt("evaluate", run_id, print_of_run):
        from pipeline.training.evaluate_run import evaluate

        weights = trained(print_of_run) if stage == "train" else Path("models") / run_id
        with new_folder(evaluated(plan, run_id, print_of_run)) as work:
            evaluate(plan, run_id, weights, work)


@contextmanager
def _attempt(stage: str, run_id: str, print_of_run: str) -> Iterator[None]:
    with (
        keep_failure_record(f"{stage}@{run_id}"),
        stop_training_at_once(run_id),
        hold(SCRATCH / print_of_run, run_id, wait=True),
    ):
        yield


if __name__ == "__main__":
    with exit_on_error():
        main(*sys.argv[1:])
