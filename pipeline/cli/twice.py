"""wrn-pipe stage train RUN --twice: does a training repeat to the bit on this machine?"""

import shutil
import signal
import subprocess
import sys
from pathlib import Path
from types import FrameType

import typer

from pipeline.signals import handled


def compare(run_id: str, steps: int | None) -> None:
    """Train `run_id` in two processes, one after the other, and compare. Raises WrnPipeError at the first difference.

    Nothing is published. `steps`: how many of each, None for the whole training. Raises UserError for a run that many
    processes share.
    """
    from pipeline.errors import UserError
    from pipeline.params import load
    from pipeline.provenance import fingerprint
    from pipeline.training.holder import hold

    plan = load()
    if (processes := plan.protocols[plan.run(run_id).protocol].processes) > 1:
        raise UserError(
            f"--twice follows one process, and run {run_id} has {processes}",
            f"compare the weights of two trainings: wrn-pipe stage train {run_id} --fresh",
        )
    home = Path("scratch") / f"{fingerprint(plan, run_id)}.twice"
    with hold(home, run_id):
        _compare(run_id, steps, home)


def _compare(run_id: str, steps: int | None, home: Path) -> None:
    from pipeline.errors import WrnPipeError
    from pipeline.progress import say
    from pipeline.training.trace import first_difference

    shutil.rmtree(home, ignore_errors=True)
    folders = [home / "first", home / "second"]
    for folder in folders:
        folder.mkdir(parents=True)
        say(f"training {run_id} in {folder}")
        code = _child(run_id, folder, steps)
        if code:
            raise typer.Exit(code if code > 0 else 128 - code)
    found = first_difference(*folders)
    if found:
        raise WrnPipeError(
            f"run {run_id} does not repeat to the bit: {found}; both are kept in {home}",
            "see unrepeatable_kernels in run.json, run wrn-pipe doctor, and keep the number of threads",
        )
    done = f"{steps} steps" if steps else "all steps"
    typer.echo(f"{run_id}: two trainings of {done} are equal in every weight, momentum and statistic after every step")
    shutil.rmtree(home)


def _child(run_id: str, folder: Path, steps: int | None) -> int:
    """Its exit code, negative for a signal. SIGTERM to this process goes on to it; a terminal's Ctrl-C goes to both."""
    child = subprocess.Popen([sys.executable, "-m", "pipeline.cli.twice", run_id, str(folder), str(steps or 0)])

    def forward(signum: int, frame: FrameType | None) -> None:
        if signum == signal.SIGTERM:
            child.terminate()

    with handled(forward):
        return child.wait()


def _train(run_id: str, folder: str, steps: str) -> None:
    from pipeline.params import load
    from pipeline.provenance import fingerprint
    from pipeline.training.run import prepare
    from pipeline.training.trace import traced

    plan = load()
    training, _ = prepare(plan, run_id, fingerprint(plan, run_id), Path(folder))
    traced(training, int(steps) or None)


if __name__ == "__main__":
    from pipeline.errors import exit_on_error

    with exit_on_error():
        _train(*sys.argv[1:])
