"""One process at a time trains a run: a lock that ends with the process, and a note that says whose it is."""

import fcntl
import json
import os
import platform
import shutil
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path

from filelock import FileLock, Timeout

from pipeline.artifacts import SAVED_STATES
from pipeline.atomic_write import new_file
from pipeline.errors import UserError, WrnPipeError
from pipeline.progress import say
from pipeline.runner.run_hooks import HEARTBEAT


@dataclass(frozen=True)
class LockOwner:
    """Who trains a run."""

    pid: int
    host: str
    since: str
    """Local time, to the second."""
    command: str

    def __str__(self) -> str:
        return f"process {self.pid} on {self.host} since {self.since} ({self.command})"


_ENDING_S = 3
"""A process that was killed a moment ago keeps its lock until all its memory is given back."""


@contextmanager
def hold(scratch: Path, run_id: str, wait: bool = False) -> Iterator[None]:
    """Own the training whose state lies in `scratch` while the block runs.

    The lock is flock on `<scratch>.lock`, which ends with the process however it ends: a note whose lock is free was
    left by a killed process. NFS passes flock on to the server, so processes on other hosts count.

    Raises UserError that names the owner when there is one; with `wait`, waits for its end instead. Raises
    WrnPipeError when the disk is full or fails.
    """
    lock = FileLock(_beside(scratch, "lock"))
    with _explain_disk(run_id, scratch.parent):
        scratch.parent.mkdir(parents=True, exist_ok=True)
        try:
            held = lock.acquire(timeout=_ENDING_S)
        except Timeout:
            owner = noted_owner(scratch)
            who = owner or "a process that has not said yet who it is"
            if not wait:
                raise UserError(f"run {run_id} is being trained by {who}", _remedy(run_id, owner)) from None
            say(f"run {run_id} is being trained by {who}: waiting for its end")
            held = lock.acquire()
    with held:
        if left := noted_owner(scratch):
            say(f"{left} was killed; its last saved state counts")
        us = LockOwner(os.getpid(), platform.node(), time.strftime("%Y-%m-%d %H:%M:%S"), " ".join(sys.orig_argv))
        with _explain_disk(run_id, scratch.parent):
            new_file(_beside(scratch, "owner.json"), json.dumps(asdict(us)).encode())
        try:
            yield
        finally:
            # Under the lock: whoever waits for this file sees that it has no name any more and makes a new one.
            for name in ("owner.json", "lock"):
                _beside(scratch, name).unlink(missing_ok=True)


@contextmanager
def _explain_disk(run_id: str, folder: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise WrnPipeError(
            f"run {run_id}: cannot write in {folder} ({error.strerror}); what was saved there before stays",
            f"make room there, or make it writable, then: wrn-pipe repro train@{run_id}",
        ) from error


def discard(scratch: Path) -> None:
    """Forget a training's saved states and results; call it with the lock."""
    # The newest state last, should this be killed.
    for path in (*scratch.glob(".*.part"), scratch / HEARTBEAT, *sorted(scratch.glob(SAVED_STATES))):
        path.unlink(missing_ok=True)
    for made in (*scratch.glob("*trained*"), *scratch.glob("*evaluated-*")):  # by a job: pipeline/runner/job.py
        shutil.rmtree(made)
    with suppress(OSError):  # what is not ours stays, and its folder
        scratch.rmdir()


def discard_unless_locked(scratch: Path, run_id: str) -> None:
    """Forget the states of a training that is over, unless somebody trains it again right now."""
    if scratch.is_dir():
        with suppress(UserError), hold(scratch, run_id):
            discard(scratch)


def noted_owner(scratch: Path) -> LockOwner | None:
    """Whom the note names, alive or not; None where there is no note."""
    with suppress(FileNotFoundError):
        return LockOwner(**json.loads(_beside(scratch, "owner.json").read_text(encoding="utf-8")))
    return None


def living_owner(scratch: Path) -> LockOwner | None:
    """Who trains in `scratch` right now. Whoever begins to in this moment waits longer than it takes to look."""
    with suppress(FileNotFoundError), _beside(scratch, "lock").open() as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except OSError:  # it is held; or there are no locks on this file system, and the note is believed
            return noted_owner(scratch)
    return None


def _beside(scratch: Path, name: str) -> Path:
    return scratch.with_name(f"{scratch.name}.{name}")


def _remedy(run_id: str, owner: LockOwner | None) -> str:
    wait = f"wait for it: wrn-pipe stage train {run_id} --wait"
    if owner is None:
        return wait
    there = "" if owner.host == platform.node() else f" on {owner.host}"
    return f"{wait}; or stop it, its state is saved: kill {owner.pid}{there}"
