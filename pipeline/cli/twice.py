"""wrn-pipe stage train RUN --twice: does a training repeat to the bit on this machine?"""

import os
import shutil
import signal
import subprocess
import sys
from contextlib import ExitStack
from pathlib import Path

import typer

from pipeline.runner.interruptions import children_hear_no_signal, stop_at_once


def compare(run_id: str, steps: int | None) -> None:
    """Train `run_id` in two processes, one after the other, and compare. Raises WrnPipeError at the first difference.

    Nothing is published, and a signal leaves nothing: two trainings, one of which was resumed, would prove less.
    `steps`: how many of each, None for the whole training. Raises UserError for a run that many processes share.
    """
    kept = "of two trainings to compare nothing is kept"
    with stop_at_once(lambda: kept, _command(run_id, steps), "start again with"):
        from pipeline.artifacts import SCRATCH
        from pipeline.errors import UserError
        from pipeline.provenance import fingerprint
        from pipeline.runner.params_file import load
        from pipeline.runner.run_lock import hold

        plan = load()
        if (processes := plan.protocols[plan.run(run_id).protocol].processes) > 1:
            raise UserError(
                f"--twice follows one process, and run {run_id} has {processes}",
                f"compare the weights of two trainings: wrn-pipe stage train {run_id} --fresh",
            )
        home = SCRATCH / f"{fingerprint(plan, run_id)}.twice"
        with hold(home, run_id, resumes=False):
            shutil.rmtree(home, ignore_errors=True)
            try:
                _compare(run_id, steps, home)
            except KeyboardInterrupt:
                shutil.rmtree(home, ignore_errors=True)
                raise


def _command(run_id: str, steps: int | None) -> str:
    return f"wrn-pipe stage train {run_id} --twice" + (f" --steps {steps}" if steps else "")


def _compare(run_id: str, steps: int | None, home: Path) -> None:
    from pipeline.errors import WrnPipeError
    from pipeline.evidence.step_checksums import first_difference
    from pipeline.progress import say

    folders = [home / "first", home / "second"]
    for folder in folders:
        folder.mkdir(parents=True)
        say(f"training {run_id} in {folder}")
        code = _child(run_id, folder, steps)
        if code < 0:
            what = f"run {run_id}: the training in {folder} was killed by {signal.Signals(-code).name}"
            raise WrnPipeError(what, f"start again with: {_command(run_id, steps)}")
        if code:  # it has said why
            raise typer.Exit(code)
    if found := first_difference(*folders):
        what = f"run {run_id} does not repeat to the bit: {found}; both are kept in {home}"
        raise WrnPipeError(what, "run wrn-pipe doctor, and keep the number of threads")
    done = f"{steps} steps" if steps else "all steps"
    typer.echo(f"{run_id}: two trainings of {done} are equal in every weight, momentum and statistic after every step")
    shutil.rmtree(home)


def _child(run_id: str, folder: Path, steps: int | None) -> int:
    """Its exit code, negative for a signal. It ends with this process, and at once where a signal ends the wait.

    It hears no signal itself: it would save a state and say that the run can be continued from it.
    """
    command = [sys.executable, "-m", "pipeline.cli.twice", run_id, str(folder), str(steps or 0), str(os.getpid())]
    with ExitStack() as stack:
        with children_hear_no_signal():
            child = subprocess.Popen(command)
            stack.callback(child.wait)
            stack.callback(child.kill)
        return child.wait()


def _train(run_id: str, folder: str, steps: int | None) -> None:
    from pipeline.errors import WrnPipeError, continue_with
    from pipeline.provenance import fingerprint
    from pipeline.runner.params_file import load
    from pipeline.training.openmp_threads import bind_threads

    plan = load()
    bind_threads(plan.kernels)
    from pipeline.evidence.step_checksums import traced
    from pipeline.runner.run_hooks import RunHooks
    from pipeline.training.train_run import prepare

    try:
        training, _ = prepare(plan, run_id, fingerprint(plan, run_id), Path(folder), RunHooks())
        traced(training, steps)
    except WrnPipeError as error:
        # Where memory is short, a training is told to go on from its state, which this one does not.
        again = f"start again with: {_command(run_id, steps)}"
        error.remedy = error.remedy.replace(f"continue with: {continue_with(run_id)}", again)
        raise


if __name__ == "__main__":
    from pipeline.errors import exit_on_error
    from pipeline.runner.launch import end_with

    end_with(int(sys.argv[4]))
    with exit_on_error():
        _train(sys.argv[1], sys.argv[2], int(sys.argv[3]) or None)
