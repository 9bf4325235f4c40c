"""Notes of the jobs that drivers have submitted, and who of them is still at work: for drivers and `wrn-pipe status`.

A note is a small file in scratch/jobs/, named by the run's fingerprint, so that a second driver finds the jobs of a
first one that was stopped, and submits nothing twice.
"""

import getpass
import json
import os
import platform
import shutil
import subprocess
from collections.abc import Collection
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

import psutil

from pipeline.errors import WrnPipeError
from pipeline.runner.job import SCRATCH, Stage

JOBS = SCRATCH / "jobs"
System = Literal["local", "slurm"]
Activity = Literal["queued", "running"]
_QUEUED = {"PENDING", "REQUEUED", "REQUEUE_HOLD", "SUSPENDED", "SPECIAL_EXIT", "RESV_DEL_HOLD", "REQUEUE_FED"}
"""Slurm's states of a job that no node works on, but one will; of squeue's others a node is at work or about to be."""


@dataclass(frozen=True)
class Job:
    """One submitted attempt at one run."""

    run: str
    fingerprint: str
    stage: Stage
    system: System
    id: str
    """Slurm's, such as 12 or 12_3; of a local job the process that watches over it."""
    started: float
    """Unix time when that process started, since ids of processes are used again; of Slurm: when it was submitted."""
    host: str
    """Where it was submitted, and a local job runs."""
    log: str
    """Path of what it prints."""
    attempt: int
    """From 1."""

    def __str__(self) -> str:
        return f"job {self.id}" if self.system == "slurm" else f"process {self.id}"


def note(job: Job) -> None:
    """Write down a job, in place of an earlier one of the same run."""
    path = _path(job.fingerprint)
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_suffix(".part")
    part.write_text(json.dumps(asdict(job)), encoding="utf-8")
    os.replace(part, path)


def forget(fingerprint: str) -> None:
    """The job is over and what came of it is known."""
    _path(fingerprint).unlink(missing_ok=True)


def noted() -> dict[str, Job]:
    """Fingerprint -> its last job, of all jobs that nobody has seen the end of."""
    found = {}
    for path in sorted(JOBS.glob("*.json")):
        with suppress(FileNotFoundError, ValueError, TypeError):  # a driver forgets it right now, or it is torn
            job = Job(**json.loads(path.read_text(encoding="utf-8")))
            found[job.fingerprint] = job
    return found


def at_work(jobs: Collection[Job]) -> dict[str, Activity]:
    """Fingerprint -> what its job does, of those that are not over.

    Raises WrnPipeError when Slurm does not answer. A local job of another host can not be seen from here and counts as
    over; who trains there holds the run's folder (pipeline/runner/run_lock.py).
    """
    queue = slurm_queue() if any(job.system == "slurm" for job in jobs) else {}
    found: dict[str, Activity] = {}
    for job in jobs:
        if job.system == "slurm":
            if state := queue.get(job.id):
                found[job.fingerprint] = "queued" if state in _QUEUED else "running"
        elif job.host == platform.node() and _lives(int(job.id), job.started):
            found[job.fingerprint] = "running"
    return found


def _lives(pid: int, started: float) -> bool:
    with suppress(psutil.NoSuchProcess):
        process = psutil.Process(pid)
        return process.status() != psutil.STATUS_ZOMBIE and abs(process.create_time() - started) < 2
    return False


def slurm_queue() -> dict[str, str]:
    """Job id -> state, of all of this user's jobs that are not over. Raises WrnPipeError when Slurm does not answer."""
    if shutil.which("squeue") is None:
        raise WrnPipeError("squeue is not here, which knows about the jobs", "ask on a login node of the cluster")
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
