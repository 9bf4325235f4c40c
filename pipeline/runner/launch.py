"""One run on many processes: torchrun's agent in this process, which holds the run and speaks for them at their end."""

import json
import logging
import os
import signal
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict
from pathlib import Path
from types import FrameType

import psutil
import torch
from torch.distributed.elastic.multiprocessing import DefaultLogsSpecs
from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
from torch.distributed.launcher.api import LaunchConfig, elastic_launch

from pipeline.errors import OUTSIDE, InterruptedTrainingError, UserError, WrnPipeError, continue_with
from pipeline.progress import say
from pipeline.runner import worker
from pipeline.runner.worker import Report, Task
from pipeline.signals import handled

_GRACE_S = 20
"""Processes that end so much later than the first one that failed were killed by torchrun, after 30 s."""


def train_on(
    processes: int,
    run_id: str,
    print_of_run: str,
    scratch: Path,
    to: Path,
    steps: int | None = None,
    mirrored: bool = True,
) -> None:
    """As training.train_run.train_run, by so many processes of this machine. `steps`, `mirrored`: see RunHooks.

    SIGTERM and SIGINT stop them after the step under way; a second one kills them and this process.
    Raises what the first of them that failed raised, as a WrnPipeError; the others are ended.
    """
    with tempfile.TemporaryDirectory() as reports:
        threads = max(1, torch.get_num_threads() // processes)
        task = Task(run_id, print_of_run, str(scratch), str(to), steps, mirrored, threads, reports)
        config = LaunchConfig(
            min_nodes=1,
            max_nodes=1,
            nproc_per_node=processes,
            rdzv_backend="c10d",
            rdzv_endpoint="localhost:0",
            local_addr="localhost",
            max_restarts=0,
            signals_to_handle="SIGQUIT",  # the two others are ours
            logs_specs=DefaultLogsSpecs(log_dir=reports),
        )
        exit_codes: dict[int, int] = {}
        logging.disable(logging.CRITICAL)  # the reports say it in two lines
        with _passing_on(processes) as asked:
            try:
                elastic_launch(config, sys.executable)("-m", worker.__name__, json.dumps(asdict(task)), os.getpid())
            except ChildFailedError as error:
                began = min(failure.timestamp for failure in error.failures.values())
                early = {rank: it for rank, it in error.failures.items() if it.timestamp < began + _GRACE_S}
                exit_codes = {rank: failure.exitcode for rank, failure in early.items()}
            finally:
                logging.disable(logging.NOTSET)
        _explain(run_id, processes, exit_codes, _read(Path(reports)), asked)


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


def _explain(run_id: str, processes: int, exit_codes: dict[int, int], reports: list[Report], asked: list[int]) -> None:
    """Raise what ended the run, unless it came to its end."""
    for report in reports:
        if report.stopped is None and report.remedy is not None:
            kind = UserError if report.exit_code == UserError.exit_code else WrnPipeError
            raise kind(report.what, report.remedy)
    # The first of them knows where its state is.
    stopped = [report.stopped for report in sorted(reports, key=lambda report: report.rank) if report.stopped]
    where = next((place for place in stopped if place != OUTSIDE), OUTSIDE)
    unsaid = {rank: code for rank, code in exit_codes.items() if rank not in {report.rank for report in reports}}
    # One that was stopped before it could say so counts as stopped.
    if asked and (stopped or (exit_codes and set(unsaid.values()) <= {-signal.SIGTERM})):
        raise InterruptedTrainingError(asked[0], where, run_id)
    remedy = f"continue with: {continue_with(run_id)}"
    # torchrun ends the others by SIGTERM: that tells why only where nothing else does.
    for rank, code in sorted(unsaid.items(), key=lambda each: each[1] == -signal.SIGTERM):
        if reports and code == -signal.SIGTERM:
            break
        how = f"was killed by {signal.Signals(-code).name}" if code < 0 else f"ended with exit code {code}"
        memory = ", as the system does when memory is short" if code == -signal.SIGKILL else ""
        raise WrnPipeError(f"run {run_id}: process {rank} of {processes} {how}{memory}", remedy)
    for report in reports:
        if report.stopped:  # a signal to this one alone, and none to this process
            raise InterruptedTrainingError(report.signum, where, run_id)
        say(report.trace)
        raise WrnPipeError(f"run {run_id}: process {report.rank} of {processes} failed: {report.what}", remedy)


def _read(reports: Path) -> list[Report]:
    """The first first."""
    found = [Report(**json.loads(path.read_text(encoding="utf-8"))) for path in reports.glob("rank-*.json")]
    return sorted(found, key=lambda report: report.time)
