"""What a job is, and notes of those that a Slurm cluster has: for drivers and `wrn-pipe status`.

A note is a small file in scratch/jobs/, named by the run's fingerprint, so that a second driver finds the jobs of a
first one that was stopped, and submits nothing twice. A local job needs none: who trains has the run's lock.
"""

import getpass
import json
import shutil
import subprocess
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

from pipeline.artifacts import SCRATCH
from pipeline.errors import WrnPipeError
from pipeline.publish import new_file
from pipeline.runner.job import FirstStage

JOBS = SCRATCH / "jobs"
Activity = Literal["queued", "running"]
_QUEUED = {"PENDING", "REQUEUED", "REQUEUE_HOLD", "SUSPENDED", "SPECIAL_EXIT", "RESV_DEL_HOLD", "REQUEUE_FED"}
"""Slurm's states of a job that no node works on, but one will; of squeue's others a node is at work or about to be."""


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

    def __str__(self) -> str:
        return f"job {self.id}" if self.slurm else f"process {self.id}"


def note(job: Job) -> None:
    """Write down a job, in place of an earlier one of the same run."""
    new_file(_path(job.fingerprint), json.dumps(asdict(job)).encode())


def forget(fingerprint: str) -> None:
    """The job is over and what came of it is known."""
    _path(fingerprint).unlink(missing_ok=True)


def noted() -> dict[str, Job]:
    """Fingerprint -> its last job, of all jobs of a cluster that nobody has seen the end of."""
    found = {}
    for path in sorted(JOBS.glob("*.json")):
        with suppress(FileNotFoundError):  # a driver forgets it right now
            job = Job(**json.loads(path.read_text(encoding="utf-8")))
            found[job.fingerprint] = job
    return found


def activities(jobs: dict[str, Job]) -> dict[str, Activity]:
    """Fingerprint -> what its job on the cluster does, of those that are not over.

    Raises WrnPipeError when Slurm does not answer.
    """
    queue = slurm_queue() if jobs else {}
    return {
        fingerprint: "queued" if queue[job.id] in _QUEUED else "running"
        for fingerprint, job in jobs.items()
        if job.id in queue
    }


def slurm_queue() -> dict[str, str]:
    """Job id -> state, of all of this user's jobs that are not over. Raises WrnPipeError when Slurm does not answer."""
    if shutil.which("squeue") is None:
        raise WrnPipeError("squeue, which lists the jobs, not found", "ask on a login node of the cluster")
    asked = subprocess.run(
        ["squeue", "--noheader", "--array", "--user", getpass.getuser(), "--format", "%i %T"],
        capture_output=True,
        text=True,
        check=False,
        start_new_session=True,  # a terminal's Ctrl-C is for the driver
    )
    if asked.returncode != 0:
        lines = asked.stderr.strip().splitlines() or [f"exit code {asked.returncode}"]
        raise WrnPipeError(f"squeue: {lines[0]}", "wait for Slurm to answer, then give the same command again")
    return dict(line.split(maxsplit=1) for line in asked.stdout.splitlines())


def _path(fingerprint: str) -> Path:
    return JOBS / f"{fingerprint}.json"
