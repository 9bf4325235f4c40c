"""One run on many processes: torchrun starts them, this process holds the run and speaks for them at their end."""

import json
import logging
import math
import os
import signal
import subprocess
import sys
import tempfile
import time
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path

import psutil

from pipeline.errors import OUTSIDE, InterruptedTrainingError, WrnPipeError, continue_with
from pipeline.progress import say
from pipeline.runner import worker
from pipeline.runner.worker import Report, Task
from pipeline.signals import noted

_LOOK_EVERY_S = 0.1
_GRACE_S = 20.0
"""How long the others may take to end when one of them has failed."""
_FAILURES = "failures.json"
"""In the folder of reports: rank -> exit code, of the processes whose end made torchrun end the others."""


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

    SIGTERM and SIGINT stop them after the step under way; a second one kills them. Raises what the first of them that
    failed raised, as a WrnPipeError; the others are ended.
    """
    with tempfile.TemporaryDirectory() as reports:
        task = Task(run_id, print_of_run, str(scratch), str(to), steps, mirrored, reports)
        command = [sys.executable, "-m", __name__, json.dumps(asdict(task)), str(processes), str(os.getpid())]
        with noted() as asked:
            # A session of its own: a terminal's Ctrl-C is for this process, which passes it on.
            launcher = subprocess.Popen(command, start_new_session=True)
            workers: list[psutil.Process] = []
            try:
                _watch(launcher, processes, Path(reports), asked, workers)
            finally:
                _kill(launcher, workers)
            if len(asked) > 1:  # as one process does: no more than it has saved stays
                signal.signal(asked[1], signal.SIG_DFL)
                os.kill(os.getpid(), asked[1])
        _explain(run_id, processes, launcher.returncode, Path(reports), asked)


def _watch(
    launcher: "subprocess.Popen[bytes]", processes: int, reports: Path, asked: list[int], workers: list[psutil.Process]
) -> None:
    """Wait for torchrun's end; pass a request to stop on. Return before it where there is nothing to wait for.

    `workers` is filled with its processes once all of them are there.
    """
    passed_on, failed_at = False, math.inf
    while time.monotonic() - failed_at < _GRACE_S and len(asked) < 2:
        with suppress(subprocess.TimeoutExpired):
            launcher.wait(_LOOK_EVERY_S)
            return
        if len(workers) < processes:
            workers[:] = _workers(launcher)
        if asked and not passed_on:
            if len(workers) < processes:  # nothing is under way yet
                return
            say(f"{signal.Signals(asked[0]).name}: finishing this step and saving")
            for process in workers:
                with suppress(psutil.NoSuchProcess):
                    process.terminate()
            passed_on = True
        ended = len(workers) == processes and sum(not process.is_running() for process in workers)
        # One that was killed leaves no file behind; torchrun ends the others, but would wait for half a minute.
        if ended > len(list(reports.glob("rank-*"))) or any(report.exit_code for report in _read(reports)):
            failed_at = min(failed_at, time.monotonic())


def _workers(launcher: "subprocess.Popen[bytes]") -> list[psutil.Process]:
    with suppress(psutil.NoSuchProcess):
        return psutil.Process(launcher.pid).children()
    return []


def _kill(launcher: "subprocess.Popen[bytes]", workers: list[psutil.Process]) -> None:
    """End what is left, torchrun's processes also where torchrun is dead: none of them speaks after this process."""
    left = {*workers, *_workers(launcher)}
    for process in left:
        with suppress(psutil.NoSuchProcess):
            process.kill()
    launcher.kill()
    launcher.wait()
    psutil.wait_procs(left)


def _explain(run_id: str, processes: int, code: int, reports: Path, asked: list[int]) -> None:
    """Raise what ended the run, unless it came to its end."""
    found = _read(reports)
    failed = [report for report in found if report.stopped is None]
    # The first of them knows where its state is.
    stopped = [report.stopped for report in sorted(found, key=lambda report: report.rank) if report.stopped]
    for report in failed:
        if report.remedy is not None:
            raise _EndedError(report.what, report.remedy, report.exit_code)
    path = reports / _FAILURES
    failures = {int(k): v for k, v in json.loads(path.read_text(encoding="utf-8")).items()} if path.exists() else {}
    unsaid = {rank: code for rank, code in failures.items() if rank not in {report.rank for report in found}}
    # One that was stopped before it could say so counts as stopped.
    if asked and (stopped or (code and set(unsaid.values()) <= {-signal.SIGTERM})):
        where = next((place for place in stopped if place != OUTSIDE), OUTSIDE)
        raise InterruptedTrainingError(asked[0], where, run_id)
    remedy = f"continue with: {continue_with(run_id)}"
    for rank, its_code in unsaid.items():
        memory = ", as the system does when memory is short" if its_code == -signal.SIGKILL else ""
        raise WrnPipeError(f"run {run_id}: process {rank} of {processes} {_how(its_code)}{memory}", remedy)
    for report in found:
        if report.stopped:  # a signal to this one alone, and none to this process
            raise InterruptedTrainingError(report.signum, report.stopped, run_id)
        say(report.trace)
        raise WrnPipeError(f"run {run_id}: process {report.rank} of {processes} failed: {report.what}", remedy)
    if code:
        raise WrnPipeError(f"run {run_id}: torchrun {_how(code)}", remedy)


def _how(exit_code: int) -> str:
    return f"was killed by {signal.Signals(-exit_code).name}" if exit_code < 0 else f"ended with exit code {exit_code}"


class _EndedError(WrnPipeError):
    """What a process raised, with its exit code."""

    def __init__(self, what: str, remedy: str, exit_code: int) -> None:
        super().__init__(what, remedy)
        self.exit_code = exit_code


def _read(reports: Path) -> list[Report]:
    """The first first."""
    found = [Report(**json.loads(path.read_text(encoding="utf-8"))) for path in reports.glob("rank-*.json")]
    return sorted(found, key=lambda report: report.time)


def _launch(task: str, processes: str, parent: str) -> int:
    """torchrun itself, in its own process."""
    worker.end_with(int(parent))
    # Only the processes answer to these; a handler that does nothing is not inherited, as SIG_IGN would be.
    for signum in (signal.SIGINT, signal.SIGTERM):
        signal.signal(signum, lambda *_: None)
    logging.disable(logging.CRITICAL)  # the reports say it in two lines
    import torch
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.run import parse_args, run

    # It would warn that all parameters are used; see Ranks.around for why it is asked to look.
    os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")
    os.environ["OMP_NUM_THREADS"] = str(max(1, torch.get_num_threads() // int(processes)))
    reports = Path(json.loads(task)["reports"])
    options = ["--standalone", "--nproc-per-node", processes, "--max-restarts", "0", "--local-addr", "localhost"]
    options += ["--signals-to-handle", "SIGQUIT", "--log-dir", str(reports / "torchrun")]
    try:
        run(parse_args([*options, "-m", worker.__name__, task, str(os.getpid())]))  # type: ignore[no-untyped-call]
    except ChildFailedError as error:
        failures = {rank: failure.exitcode for rank, failure in error.failures.items()}
        (reports / _FAILURES).write_text(json.dumps(failures), encoding="utf-8")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(_launch(*sys.argv[1:]))
