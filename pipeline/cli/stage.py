"""wrn-pipe stage: run one stage directly, or with --twice prove that a training repeats to the bit on this machine."""

import os
import shutil
import signal
import subprocess
import sys
from contextlib import ExitStack
from functools import partial
from importlib import import_module
from pathlib import Path
from shlex import join
from typing import Annotated, Any, Literal

import typer
from typer import Argument, Option

from pipeline.cli.options import Budget, planned_stages
from pipeline.errors import UserError, WrnPipeError, continue_with, exit_on_error, nearest
from pipeline.progress import say
from pipeline.runner.interruptions import children_hear_no_signal, stop_at_once, time_budget

Stage = Literal["download", "convert", "train", "evaluate", "summarize", "tabulate", "manifest", "report"]


def _keys(context: typer.Context) -> list[str]:
    """What the stage that was typed before can work on."""
    return [stage.key for stage in planned_stages() if stage.kind == context.params.get("name") and stage.key]


def _processes(words: str) -> Literal["auto"] | int:
    if words != "auto" and not (words.isdecimal() and int(words)):
        raise typer.BadParameter(f"{words} is not a number of processes; give one, such as 2, or auto")
    return "auto" if words == "auto" else int(words)


def stage(
    name: Annotated[Stage, Argument(help="What to run.")],
    key: Annotated[str | None, Argument(help="What it works on.", metavar="RUN", autocompletion=_keys)] = None,
    fresh: Annotated[bool, Option("--fresh", help="train: forget what earlier attempts saved.")] = False,
    wait: Annotated[bool, Option("--wait", help="train: wait while another process trains it.")] = False,
    checkpoint_steps: Annotated[int | None, Option(min=1, help="train: save after every N steps.", metavar="N")] = None,
    nproc: Annotated[Any, Option(parser=_processes, help="train: by N processes.", metavar="N|auto")] = None,
    budget: Budget = None,
    twice: Annotated[bool, Option("--twice", help="train: twice, in scratch/, and compare every step.")] = False,
    steps: Annotated[int | None, Option(min=1, help="With --twice: only this number of steps.")] = None,
) -> None:
    """Run one stage by itself, without DVC: its inputs are taken as they are and nothing is recorded in dvc.lock.

    RUN is what it works on: a run id, dataset, representation or table. Without --checkpoint-steps a training is saved
    as often as costs below 1 % of its time. --nproc auto is one process for each GPU; by default the protocol says.

    Exit code: 0 done, 1 failed or (--twice) not equal, 2 a usage error, 75 the time of --for is over, 130
    or 143 stopped by a signal.
    """
    from pipeline.runner.dag import read_dag
    from pipeline.runner.dvc import how_far
    from pipeline.runner.params_file import load
    from pipeline.runner.stage_entry import stage_attempt

    settings = {"fresh": fresh, "wait": wait, "checkpoint_steps": checkpoint_steps, "nproc": nproc}
    given = [option for option, value in {**settings, "for": budget, "twice": twice}.items() if value]
    options = [f"--{option.replace('_', '-')}" for option in given]
    if options and name != "train":
        raise UserError(f"stage {name} has no option {options[0]}", "it is one of wrn-pipe stage train RUN")
    if twice and len(options) > 1:
        raise UserError(f"--twice with {options[0]}", "give one of them: --twice starts again, in folders of its own")
    if steps and not twice:
        raise UserError("--steps without --twice", "add --twice: a training of fewer steps is no result")
    plan = load()
    keys = [stage.key for stage in read_dag(plan).values() if stage.kind == name]
    if (key or "") not in keys:
        what = f"params.yaml has no {key!r} for stage {name}" if key else f"stage {name} of what?"
        raise UserError(what, f"wrn-pipe stage {name}" if keys == [""] else nearest(key or "", keys, f"{name} key"))
    words = [key] if key else []
    if key and twice:
        _train_twice(key, steps)
        return
    far, again = partial(how_far, plan, [f"{name}@{key}"]), join(["wrn-pipe", *sys.argv[1:]])
    # Imported now, not when a signal is answered: numpy, broken off while it is imported, cannot be imported again.
    module = import_module(f"stages.{name}")
    kept = partial(module.kept, *words) if name == "download" else None
    with time_budget(budget, again, far), stage_attempt("@".join([name, *words]), kept):
        module.main(*words, **(settings if name == "train" else {}))


def _train_twice(run_id: str, steps: int | None) -> None:
    """Train in two processes, one after the other, and compare. Raises WrnPipeError at the first difference.

    Nothing is published, and a signal leaves nothing: two trainings, one of which was resumed, would prove less.
    `steps`: how many of each, None for the whole training. Raises UserError for a run that many processes share.
    """
    with stop_at_once(lambda: "of two trainings to compare nothing is kept", _again(run_id, steps), "start again with"):
        from pipeline.artifacts import SCRATCH
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


def _again(run_id: str, steps: int | None) -> str:
    return f"wrn-pipe stage train {run_id} --twice" + (f" --steps {steps}" if steps else "")


def _compare(run_id: str, steps: int | None, home: Path) -> None:
    from pipeline.evidence.recompute import first_difference

    folders = [home / "first", home / "second"]
    for folder in folders:
        folder.mkdir(parents=True)
        say(f"training {run_id} in {folder}")
        words = [run_id, str(folder), str(steps or 0), str(os.getpid())]
        with ExitStack() as stack:
            with children_hear_no_signal():  # it would save a state and say that the run can be continued from it
                child = subprocess.Popen([sys.executable, "-m", "pipeline.cli.stage", *words])
                stack.callback(child.wait)
                stack.callback(child.kill)
            code = child.wait()
        if code < 0:
            what = f"run {run_id}: the training in {folder} was killed by {signal.Signals(-code).name}"
            raise WrnPipeError(what, f"start again with: {_again(run_id, steps)}")
        if code:  # it has said why
            raise typer.Exit(code)
    if found := first_difference(*folders):
        what = f"run {run_id} does not repeat to the bit: {found}; both are kept in {home}"
        raise WrnPipeError(what, "run wrn-pipe doctor, and keep the number of threads")
    done = f"{steps} steps" if steps else "all steps"
    typer.echo(f"{run_id}: two trainings of {done} are equal in every weight, momentum and statistic after every step")
    shutil.rmtree(home)


def _train(run_id: str, folder: str, steps: int | None) -> None:
    """In the child: one of the two."""
    from pipeline.evidence.recompute import traced
    from pipeline.provenance import fingerprint
    from pipeline.runner.params_file import load
    from pipeline.runner.run_hooks import RunHooks
    from pipeline.training.train_run import prepare

    plan = load()
    try:
        training, _ = prepare(plan, run_id, fingerprint(plan, run_id), Path(folder), RunHooks())
        traced(training, steps)
    except WrnPipeError as error:
        # Where memory is short, a training is told to go on from its state, which this one does not.
        again = f"start again with: {_again(run_id, steps)}"
        error.remedy = error.remedy.replace(f"continue with: {continue_with(run_id)}", again)
        raise


if __name__ == "__main__":
    from pipeline.runner.launch import end_with

    end_with(int(sys.argv[4]))
    with exit_on_error():
        _train(sys.argv[1], sys.argv[2], int(sys.argv[3]) or None)
