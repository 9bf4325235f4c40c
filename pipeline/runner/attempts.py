"""An attempt at a stage: how it starts and ends, how the last one failed, as a file for `wrn-pipe status`, and that one
process at a time trains a run: a lock that ends with the process, and a note that says whose it is."""

import errno
import fcntl
import json
import os
import platform
import shutil
import sys
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path

from filelock import FileLock, Timeout

from pipeline.artifacts import SAVED_STATES, SCRATCH
from pipeline.atomic_write import new_file
from pipeline.errors import UserError, WrnPipeError, exit_on_error
from pipeline.params import Plan
from pipeline.progress import say
from pipeline.runner.interruptions import NOTHING_HALF_DONE, stop_at_once
from pipeline.runner.run_hooks import HEARTBEAT

_DISK = dict.fromkeys((errno.ENOSPC, errno.EDQUOT, errno.EFBIG), "make room there") | dict.fromkeys(
    (errno.EACCES, errno.EPERM, errno.EROFS), "make it writable"
)
_ENDING_S = 3
"""A process that was killed a moment ago keeps its lock until all its memory is given back."""


def run_stage(main: Callable[..., None], kept: Callable[..., str] | None = None) -> None:
    """Call a stage's `main` with the words of its command line. `kept`: says, of the same words, what the stage leaves
    behind when a signal stops it; None: nothing."""
    words = sys.argv[1:]
    name = main.__globals__["__spec__"].name.removeprefix("stages.")
    with exit_on_error(), stage_attempt("@".join([name, *words]), kept and partial(kept, *words)):
        main(*words)


@contextmanager
def stage_attempt(stage: str, kept: Callable[[], str] | None = None) -> Iterator[None]:
    """The block runs `stage`, such as convert@cifar10-rgb: a signal stops it at once, and how it failed is recorded."""
    with keep_failure_record(stage), stop_at_once(kept or (lambda: NOTHING_HALF_DONE), f"wrn-pipe repro {stage}"):
        yield


def mirror(plan: Plan, run_ids: Sequence[str]) -> None:
    """Have MLflow show runs whose files were just published. Its failures are said, not raised."""
    from pipeline.publication.wide_resnet import PAPER
    from pipeline.tracking.sync import log_runs

    log_runs(PAPER, plan, run_ids)


@dataclass(frozen=True)
class FailureRecord:
    """How a stage failed."""

    exit_code: int
    """130 and 143: stopped by a signal; 2: a usage error; 1: anything else."""
    what: str
    remedy: str | None
    """None for an unforeseen error."""

    @property
    def stopped(self) -> bool:
        return self.exit_code > 128

    @property
    def lines(self) -> tuple[str, ...]:
        return (self.what, f"fix: {self.remedy}") if self.remedy else (self.what,)


@contextmanager
def keep_failure_record(stage: str) -> Iterator[None]:
    """While the block runs `stage`: note an error and raise it on; forget an earlier attempt's."""
    forget_failure_record(stage)
    try:
        yield
    except Exception as error:
        if isinstance(error, WrnPipeError):
            record = FailureRecord(error.exit_code, error.what, error.remedy)
        else:
            record = FailureRecord(1, traceback.format_exception_only(error)[-1].strip(), None)
        with suppress(OSError):  # on a full disk the error itself is what matters
            new_file(_record_of(stage), json.dumps(asdict(record)).encode())
        raise


def failure_record(stage: str) -> FailureRecord | None:
    """Of the last attempt at `stage`; None where it was completed, was never made, or was killed."""
    with suppress(FileNotFoundError):
        return FailureRecord(**json.loads(_record_of(stage).read_text(encoding="utf-8")))
    return None


def forget_failure_record(stage: str) -> None:
    _record_of(stage).unlink(missing_ok=True)


def _record_of(stage: str) -> Path:
    return SCRATCH / "failures" / f"{stage}.json"


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
            what = f"run {run_id} is being trained by {owner or 'a process that has not said yet who it is'}"
            if not wait:
                stop = f"; or stop it, its state is saved: kill {owner.pid} on {owner.host}" if owner else ""
                raise UserError(what, f"wait for its end, as wrn-pipe stage train {run_id} --wait does{stop}") from None
            say(f"{what}: waiting for its end")
            held = lock.acquire()
    with held:
        if left := noted_owner(scratch):
            say(f"{left} was killed")
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
        what = f"run {run_id}: cannot write in {folder} ({error.strerror}); what was saved there before stays"
        cause = _DISK.get(error.errno or 0, "see what this error means on its file system")
        raise WrnPipeError(what, f"{cause}, then: wrn-pipe repro train@{run_id}") from error


def discard(scratch: Path) -> None:
    """Forget a training's saved states and results; call it with the lock."""
    # The newest state last, should this be killed.
    for path in (*scratch.glob(".*.part"), scratch / HEARTBEAT, *sorted(scratch.glob(SAVED_STATES))):
        path.unlink(missing_ok=True)
    for made in (*scratch.glob("*trained*"), *scratch.glob("*evaluated-*")):
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
