"""A run's training, here or by many processes. Then torchrun's agent is in this process, which has the run's lock and
speaks for them at their end; each of them is `python -m pipeline.runner.launch PARENT THREADS FOLDER`."""

import ctypes
import logging
import os
import pickle
import signal
import sys
import tempfile
import time
import traceback
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import dataclass
from pathlib import Path
from types import FrameType

import psutil

from pipeline.artifacts import SCRATCH
from pipeline.errors import OUTSIDE, InterruptedTrainingError, WrnPipeError, continue_with
from pipeline.params import Plan
from pipeline.progress import leave_speaking_to_another, say
from pipeline.runner.interruptions import handled, stop_training_at_once

_PR_SET_PDEATHSIG = 1
_TASK = "task.pickle"
_GRACE_S = 20
"""Processes that end so much later than the first one that failed were killed by torchrun, after 30 s."""


@dataclass(frozen=True)
class Task:
    """What to train. For the last two see RunHooks."""

    run_id: str
    fingerprint: str
    to: Path
    checkpoint_steps: int | None = None
    mirrored: bool = False


_Report = tuple[int, float, WrnPipeError, str]
"""How a process ended that did not train to the end: its rank, Unix time, and the traceback of an unforeseen error."""


def train(plan: Plan, task: Task, processes: int) -> None:
    """As train_run, by `processes` of this machine.

    SIGTERM and SIGINT stop them after the step under way; a second one kills them and this process.
    Raises what the first of them that failed raised, as a WrnPipeError; the others are ended.
    """
    if processes == 1:
        _train(plan, task)
        return
    import torch
    from torch.distributed.elastic.multiprocessing import DefaultLogsSpecs
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError, ProcessFailure
    from torch.distributed.launcher.api import LaunchConfig, elastic_launch

    with tempfile.TemporaryDirectory() as name, _passing_on(processes) as asked:
        folder = Path(name)
        (folder / _TASK).write_bytes(pickle.dumps((plan, task)))
        config = LaunchConfig(
            min_nodes=1,
            max_nodes=1,
            nproc_per_node=processes,
            rdzv_backend="c10d",
            rdzv_endpoint="localhost:0",
            local_addr="localhost",
            max_restarts=0,
            signals_to_handle="SIGQUIT",  # the two others are ours
            logs_specs=DefaultLogsSpecs(log_dir=name),
        )
        ended: dict[int, ProcessFailure] = {}
        logging.disable(logging.CRITICAL)  # the reports say it in two lines
        try:
            threads = max(1, torch.get_num_threads() // processes)
            words = "-m", "pipeline.runner.launch", str(os.getpid()), str(threads), name
            elastic_launch(config, sys.executable)(*words)
        except ChildFailedError as error:
            ended = error.failures
        finally:
            logging.disable(logging.NOTSET)
        until = min((failure.timestamp for failure in ended.values()), default=0) + _GRACE_S
        exit_codes = {rank: failure.exitcode for rank, failure in ended.items() if failure.timestamp < until}
        found = [pickle.loads(path.read_bytes()) for path in folder.glob("rank-*.pickle")]
        _explain(task.run_id, processes, exit_codes, sorted(found, key=lambda report: report[1]), asked)


@contextmanager
def _passing_on(processes: int) -> Iterator[list[int]]:
    """Signals to this process, which are handed on to those that train."""
    asked: list[int] = []
    before = signal.getsignal(signal.SIGTERM)

    def note(signum: int, frame: FrameType | None) -> None:
        asked.append(signum)
        workers = psutil.Process().children()
        if len(asked) > 1:  # as one process does: no more than it has saved stays
            for process in workers:
                process.kill()
            signal.signal(signum, signal.SIG_DFL)
            os.kill(os.getpid(), signum)
        if len(workers) < processes and callable(before):  # nothing is under way yet
            before(signum, frame)
        say(f"{signal.Signals(signum).name}: finishing this step and saving")
        for process in workers:
            with suppress(psutil.NoSuchProcess):
                process.terminate()

    with handled(note):
        yield asked


def _explain(run_id: str, processes: int, exit_codes: dict[int, int], reports: list[_Report], asked: list[int]) -> None:
    """Raise what ended the run, unless it came to its end. `reports`: the first first."""
    for _, _, error, trace in reports:
        if not trace and not isinstance(error, InterruptedTrainingError):
            raise error
    stops = {rank: error for rank, _, error, _ in sorted(reports) if isinstance(error, InterruptedTrainingError)}
    # The first of the ranks knows where its state is.
    where = next((stop.where for stop in stops.values() if stop.where != OUTSIDE), OUTSIDE)
    silent = {rank: code for rank, code in exit_codes.items() if rank not in {report[0] for report in reports}}
    # One that was stopped before it could say so counts as stopped.
    if asked and (stops or (exit_codes and set(silent.values()) <= {-signal.SIGTERM})):
        raise InterruptedTrainingError(asked[0], where, run_id)
    # torchrun ends the others by SIGTERM: that tells why only where nothing else does.
    telling = {rank: code for rank, code in silent.items() if code != -signal.SIGTERM}
    for rank, code in (telling or (silent if not reports else {})).items():
        how = f"was killed by {signal.Signals(-code).name}" if code < 0 else f"ended with exit code {code}"
        memory = ", as the system does when memory is short" if code == -signal.SIGKILL else ""
        what = f"run {run_id}: process {rank} of {processes} {how}{memory}"
        raise WrnPipeError(what, f"continue with: {continue_with(run_id)}")
    for rank, _, error, trace in reports:
        if rank in stops:  # a signal to this one alone, and none to this process
            raise InterruptedTrainingError(stops[rank].signum, where, run_id)
        say(trace)
        raise error


def end_with(parent: int) -> None:
    """Have Linux kill this process when `parent`, which started it, has ended: who has the run's lock is gone then."""
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        os._exit(1)


def _as_rank(folder: Path) -> int:
    """Train as one of the processes; the exit code. torchrun ends the others when it is not 0."""
    plan, task = pickle.loads((folder / _TASK).read_bytes())
    rank, trace = int(os.environ["RANK"]), ""
    try:
        with stop_training_at_once(task.run_id):
            if rank:
                leave_speaking_to_another()
            _train(plan, task, together=True)
            return 0
    except WrnPipeError as known:
        error = known
    except Exception as unforeseen:  # noqa: BLE001 - the process that started them all says it
        said = traceback.format_exception_only(unforeseen)[-1].strip()
        what = f"run {task.run_id}: process {rank} of {os.environ['WORLD_SIZE']} failed: {said}"
        more = "NCCL_DEBUG=INFO says more, and a container needs --shm-size 8g; " * ("NCCL" in said)
        error, trace = WrnPipeError(what, f"{more}continue with: {continue_with(task.run_id)}"), traceback.format_exc()
    (folder / f"rank-{rank}.pickle").write_bytes(pickle.dumps((rank, time.time(), error, trace)))
    # After a step all stop together, and the first may have something to finish.
    together = isinstance(error, InterruptedTrainingError) and error.where != OUTSIDE
    return 0 if together else error.exit_code


def _train(plan: Plan, task: Task, together: bool = False) -> None:
    from pipeline.publication.wide_resnet import PAPER
    from pipeline.runner.run_hooks import RunHooks
    from pipeline.training.ranks import ALONE, joined
    from pipeline.training.train_run import train_run

    hooks = RunHooks(task.checkpoint_steps, PAPER if task.mirrored else None)
    with joined(plan.device) if together else nullcontext(ALONE) as ranks:
        train_run(plan, task.run_id, task.fingerprint, SCRATCH / task.fingerprint, task.to, hooks, ranks)


if __name__ == "__main__":
    end_with(int(sys.argv[1]))
    os.environ["OMP_NUM_THREADS"] = sys.argv[2]  # read when torch is imported
    # It would warn that all parameters are used; see Ranks.around for why it looks.
    os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")
    code = _as_rank(Path(sys.argv[3]))
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)  # not through the ends of threads and libraries that may wait for a process that is gone
