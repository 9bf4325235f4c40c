"""One process at a time trains a run: a lock that ends with the process, and a note that says who holds it."""

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

import psutil
from filelock import FileLock, Timeout

from pipeline.artifacts import SAVED_STATES
from pipeline.errors import UserError, WrnPipeError
from pipeline.progress import say
from pipeline.runner import heartbeat


@dataclass(frozen=True)
class Holder:
    """Who trains a run."""

    pid: int
    host: str
    since: str
    """Local time, to the second."""
    command: str

    def __str__(self) -> str:
        return f"process {self.pid} on {self.host} since {self.since} ({self.command})"


_ENDING_S = 3
"""A process that was killed a moment ago holds its lock until all its memory is given back."""


@contextmanager
def hold(scratch: Path, run_id: str, wait: bool = False, resumes: bool = True) -> Iterator[None]:
    """Own the training whose state lies in `scratch` while the block runs.

    The lock is flock on `<scratch>.lock`, which ends with the process however it ends: a note whose lock is free was
    left by a dead holder, even if its process id is in use again. NFS passes flock on to the server, so holders on
    other hosts count; where a mount keeps locks to one host, another host's note is believed (`_locks_stay_here`).

    Raises UserError that names the holder when there is one; with `wait`, waits for its end instead. Raises
    WrnPipeError when the disk is full or fails. `resumes`: what is stopped there is taken up again.
    """
    with _explain_disk(run_id, scratch.parent):
        scratch.parent.mkdir(parents=True, exist_ok=True)
    lock = FileLock(scratch.with_name(f"{scratch.name}.lock"))
    note = scratch.with_name(f"{scratch.name}.holder.json")
    try:
        with _explain_disk(run_id, scratch.parent):
            lock.acquire(timeout=_ENDING_S)
    except Timeout:
        who = read(note) or "a process that has not said yet who it is"
        if not wait:
            raise UserError(f"run {run_id} is being trained by {who}", _remedy(run_id, who, resumes)) from None
        say(f"run {run_id} is being trained by {who}: waiting for its end")
        lock.acquire()
    try:
        if left := read(note):
            if left.host != platform.node() and _locks_stay_here(scratch.parent, Path("/proc/self/mounts")):
                raise UserError(
                    f"run {run_id}: {note} says {left}, and {scratch.parent} is mounted so that its locks are not seen "
                    "from here",
                    f"if that process has ended, delete {note} and run again",
                )
            say(f"{left} ended without a word; {'its last state counts' if resumes else 'this begins anew'}")
        part = note.with_suffix(".part")
        with _explain_disk(run_id, scratch.parent):
            part.write_text(json.dumps(asdict(_this_process())))
            os.replace(part, note)
        try:
            yield
        finally:
            note.unlink(missing_ok=True)
            # Under the lock: whoever waits for this file sees that it has no name any more and makes a new one.
            Path(lock.lock_file).unlink(missing_ok=True)
    finally:
        lock.release()


@contextmanager
def _explain_disk(run_id: str, folder: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        if isinstance(error, Timeout):  # the lock's, which is an OSError as well
            raise
        raise WrnPipeError(
            f"run {run_id}: cannot write in {folder} ({error.strerror}); what was saved there before stays",
            f"make room there, or make it writable, then: wrn-pipe repro train@{run_id}",
        ) from error


def discard(scratch: Path) -> None:
    """Forget a training's saved states and results; call it while holding them."""
    for path in (
        *scratch.glob(".*.part"),
        scratch / heartbeat.FILE,
        *sorted(scratch.glob(SAVED_STATES)),
    ):  # the newest last, should this be killed
        path.unlink(missing_ok=True)
    for made in (*scratch.glob("*trained*"), *scratch.glob("*evaluated-*")):  # by a job: pipeline/runner/job.py
        shutil.rmtree(made)
    if scratch.is_dir() and not any(scratch.iterdir()):
        scratch.rmdir()


def discard_unless_held(scratch: Path, run_id: str) -> None:
    """Forget the states of a training that is over, unless somebody trains it again right now."""
    if scratch.is_dir():
        with suppress(UserError), hold(scratch, run_id):
            discard(scratch)


def read(note: Path) -> Holder | None:
    """The holder that a note names; None where there is no note. A broken one names what it can: nobody."""
    with suppress(FileNotFoundError, ValueError, TypeError):
        return Holder(**json.loads(note.read_text(encoding="utf-8")))
    return None


def living(scratch: Path) -> Holder | None:
    """Who trains in `scratch` right now, told without touching its lock, so that nobody else is turned away.

    On this host the process must still be the one that wrote the note; of another host the note is believed.
    """
    who = read(scratch.with_name(f"{scratch.name}.holder.json"))
    if who is None or who.host != platform.node():
        return who
    with suppress(psutil.NoSuchProcess, psutil.AccessDenied):
        process = psutil.Process(who.pid)
        if process.status() != psutil.STATUS_ZOMBIE and " ".join(process.cmdline()) == who.command:
            return who
    return None


def _this_process() -> Holder:
    command = " ".join(psutil.Process().cmdline() or sys.argv)
    return Holder(os.getpid(), platform.node(), time.strftime("%Y-%m-%d %H:%M:%S"), command)


def _remedy(run_id: str, who: Holder | str, resumes: bool) -> str:
    wait = f"wait for it: wrn-pipe stage train {run_id} --wait" if resumes else "wait for its end"
    if isinstance(who, Holder):
        there = "" if who.host == platform.node() else f" on {who.host}"
        return f"{wait}; or stop it, {'its state is' if resumes else 'nothing of it is'} saved: kill {who.pid}{there}"
    return wait


def _locks_stay_here(folder: Path, mounts: Path) -> bool:
    """Whether flock below `folder` is unseen by other hosts: NFS mounted with nolock or local_lock."""
    if not mounts.is_file():
        return False
    where = folder.resolve()
    # fields: device, mount point (blanks as \040), type, options
    rows = [line.split()[:4] for line in mounts.read_text().splitlines()]
    above = [r for r in rows if where.is_relative_to(r[1].replace("\\040", " "))]
    if not above:
        return False
    _, _, kind, options = max(above, key=lambda row: len(row[1]))
    return kind.startswith("nfs") and bool({"nolock", "local_lock=flock", "local_lock=all"} & set(options.split(",")))
