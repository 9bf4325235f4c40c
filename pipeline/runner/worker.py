"""One of the processes that train a run together: takes part in its training and reports how it ended.

Arguments: a Task as JSON, then the process id of the one that started it.
"""

import json
import os
import signal
import sys
import threading
import time
import traceback
from dataclasses import asdict, dataclass
from pathlib import Path

from pipeline.errors import OUTSIDE, InterruptedTrainingError, UserError, WrnPipeError
from pipeline.runner.training_interruptions import stop_at_once

_LOOK_EVERY_S = 0.2


@dataclass(frozen=True)
class Task:
    """What to train, as strings that a command line can carry."""

    run_id: str
    fingerprint: str
    scratch: str
    to: str
    checkpoint_steps: int | None
    mirrored: bool
    threads: int
    """Of each process."""
    reports: str
    """The folder for what a process has to say at its end."""


@dataclass(frozen=True)
class Report:
    """How a process ended that did not train to the end."""

    rank: int
    time: float
    """Unix time."""
    what: str
    remedy: str | None
    """None for an error that nobody has foreseen."""
    exit_code: int
    """0 where all stopped together after a step."""
    stopped: str | None = None
    """Where a signal stopped it."""
    signum: int = 0
    """Of that signal."""
    trace: str = ""
    """Of an error that nobody has foreseen."""


def end_with(parent: int) -> None:
    """Kill this process when `parent`, which started it, has ended: whoever holds the run's lock is gone then."""

    def look() -> None:
        while os.getppid() == parent:
            time.sleep(_LOOK_EVERY_S)
        os.kill(os.getpid(), signal.SIGKILL)

    threading.Thread(target=look, daemon=True).start()


def main(task: Task) -> int:
    """Train, and leave a file in the folder of reports; the exit code. torchrun ends the others when it is not 0."""
    rank = int(os.environ["RANK"])
    try:
        with stop_at_once(task.run_id):
            _train(task, rank)
    except InterruptedTrainingError as stop:
        # After a step all stop together, and the first may have something to finish.
        code = stop.exit_code if stop.where == OUTSIDE else 0
        _report(task, Report(rank, time.time(), stop.what, stop.remedy, code, stop.where, stop.signum))
        return code
    except WrnPipeError as error:
        _report(task, Report(rank, time.time(), error.what, error.remedy, error.exit_code))
        return error.exit_code
    except Exception as error:  # noqa: BLE001 - the process that started them all says it
        what = traceback.format_exception_only(error)[-1].strip()
        _report(task, Report(rank, time.time(), what, None, 1, trace=traceback.format_exc()))
        return 1
    return 0


def _train(task: Task, rank: int) -> None:
    from pipeline.progress import leave_speaking_to_another
    from pipeline.provenance import fingerprint
    from pipeline.runner.params_file import load
    from pipeline.runner.run_hooks import RunHooks
    from pipeline.training.ranks import joined
    from pipeline.training.train_run import train_run

    if rank:
        leave_speaking_to_another()
    plan = load()
    if fingerprint(plan, task.run_id) != task.fingerprint:
        raise UserError(f"what run {task.run_id} is made of changed while its processes started", "start it again")
    with joined(plan.device) as ranks:
        places = Path(task.scratch), Path(task.to)
        hooks = RunHooks(task.checkpoint_steps, task.mirrored)
        train_run(plan, task.run_id, task.fingerprint, *places, hooks, ranks)


def _report(task: Task, report: Report) -> None:
    path = Path(task.reports) / f"rank-{report.rank}.json"
    part = path.with_suffix(".part")
    part.write_text(json.dumps(asdict(report)), encoding="utf-8")
    os.replace(part, path)


if __name__ == "__main__":
    end_with(int(sys.argv[2]))
    the_task = Task(**json.loads(sys.argv[1]))
    os.environ["OMP_NUM_THREADS"] = str(the_task.threads)  # read when torch is imported
    # It would warn that all parameters are used; see Ranks.around for why it looks.
    os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")
    code = main(the_task)
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)  # not through the ends of threads and libraries that may wait for a process that is gone
