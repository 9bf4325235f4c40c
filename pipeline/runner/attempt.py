"""What submitit runs on a node or in a slot: a child process that trains, and what to do with it when a signal comes.

The child is a process of its own since it answers SIGTERM by finishing its step and saving, which a signal handler in
the middle of that step could not do.
"""

import os
import signal
import subprocess
import sys
import time
from dataclasses import dataclass

from submitit.helpers import DelayedSubmission

from pipeline.runner.failure_record import forget_failure_record
from pipeline.runner.job import Stage
from pipeline.runner.waiting import wait_briefly

_PATIENCE_S = 600.0
"""How long a job that the cluster has told to end waits for the cluster to end it, or to take it back."""


@dataclass(frozen=True)
class Attempt:
    """One try at one run, as submitit pickles it."""

    run: str
    fingerprint: str
    stage: Stage
    cores: tuple[int, ...] = ()
    """Those to keep to; none: all that the job is given."""
    gpu: str | None = None
    """The one to train on, as CUDA_VISIBLE_DEVICES names it, of which submitit knows numbers only."""

    def __call__(self) -> None:
        """Wait for the child's end. Raises RuntimeError with its exit code unless that is 0."""
        environment = dict(os.environ)
        wait_briefly(environment)  # a cluster may not hand on the driver's
        if self.gpu is not None:
            environment["CUDA_VISIBLE_DEVICES"] = self.gpu
        if self.cores:
            os.sched_setaffinity(0, self.cores)
        if threads := len(self.cores) or int(os.environ.get("SLURM_CPUS_PER_TASK", "0")):
            environment.setdefault("OMP_NUM_THREADS", str(threads))
        words = [sys.executable, "-m", "pipeline.runner.job", self.run, self.fingerprint, self.stage]
        # Slurm signals every process of a job: the one that is meant for submitit must not kill the training.
        child = subprocess.Popen(
            words,
            env=environment,
            preexec_fn=_ignore_user_signal,
            stdin=subprocess.DEVNULL,
            # Of a terminal's Ctrl-C the driver tells the trainings; one that is told twice ends at once.
            start_new_session=not _of_cluster(),
        )
        _CHILDREN.append(child.pid)
        os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)  # no lock is held: a handler may wait as well
        code = child.wait()
        if code in (128 + signal.SIGTERM, -signal.SIGTERM) and _of_cluster():
            # The cluster wants the node back: it preempts, cancels or drains. A job that ends by itself now would count
            # as over, one that is still there is put back into the queue.
            time.sleep(_PATIENCE_S)
        if code:
            raise RuntimeError(f"{self.run}: exit code {code}")

    def checkpoint(self) -> DelayedSubmission:
        """Called in the handler of submitit's signal: let the training save, then be submitted again."""
        for pid in _CHILDREN:
            try:
                os.kill(pid, signal.SIGTERM)
                os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)
            except (ProcessLookupError, ChildProcessError):  # it has ended and was waited for
                continue
        # That it was stopped is no answer any more: should the job not start again, the driver must not find it.
        for stage in ("train", "evaluate"):
            forget_failure_record(f"{stage}@{self.run}")
        return DelayedSubmission(self)


def _of_cluster() -> bool:
    """Whether Slurm has started this, which a job of `--jobs` may have within a job of Slurm's."""
    return os.environ.get("SUBMITIT_EXECUTOR") == "slurm"


_CHILDREN: list[int] = []
"""Of this process: an Attempt itself is pickled."""


def _ignore_user_signal() -> None:
    signal.signal(signal.SIGUSR2, signal.SIG_IGN)
