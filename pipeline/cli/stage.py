"""wrn-pipe stage: run one stage directly, or with --twice prove that a training repeats to the bit on this machine."""

import os
import subprocess
import sys
from contextlib import suppress
from functools import partial
from importlib import import_module
from pathlib import Path
from shlex import join
from tempfile import TemporaryDirectory
from typing import Annotated, Any, Literal

import typer
from typer import Argument, Option

from pipeline.cli.options import Budget, planned_stages
from pipeline.errors import UserError, WrnPipeError, exit_on_error, nearest
from pipeline.progress import say
from pipeline.runner.interruptions import time_budget

_CHECKSUMS = "checksums.npz"
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
    from pipeline.runner.attempts import stage_attempt
    from pipeline.runner.dag import read_dag
    from pipeline.runner.dvc import how_far
    from pipeline.runner.params_file import load

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
        if (processes := plan.protocols[plan.run(key).protocol].processes) > 1:
            what = f"--twice follows one process, and run {key} has {processes}"
            raise UserError(what, f"compare the weights of two trainings: wrn-pipe stage train {key} --fresh")
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

    Nothing of them is kept: two trainings, one of which was resumed, would prove less.
    """
    import numpy as np

    from pipeline.artifacts import SCRATCH

    SCRATCH.mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory(prefix=f"{run_id}.twice-", dir=SCRATCH) as home:
        for time in ("first", "second"):
            say(f"training {run_id}, the {time} time")
            words = [run_id, f"{home}/{time}", str(steps or 0), str(os.getpid())]
            # In a session of its own: it would hear a terminal's Ctrl-C and say that the run can be continued.
            child = subprocess.run([sys.executable, "-m", "pipeline.cli.stage", *words], start_new_session=True)
            if code := child.returncode:
                say(f"run {run_id}: the {time} training ended with exit code {code}")
                raise typer.Exit(max(code, 1))
        with np.load(f"{home}/first/{_CHECKSUMS}") as one, np.load(f"{home}/second/{_CHECKSUMS}") as other:
            names, unequal = one["names"], one["sums"] != other["sums"]
    if unequal.any():
        step = int(unequal.any(axis=1).argmax())
        apart = names[unequal[step]]
        found = f"after step {step + 1}, {len(apart)} of {len(names)} tensors differ, first {apart[0]}"
        what = f"run {run_id} does not repeat to the bit: {found}"
        raise WrnPipeError(what, "run wrn-pipe doctor, and keep the number of threads")
    done = f"{steps} steps" if steps else "all steps"
    typer.echo(f"{run_id}: two trainings of {done} are equal in every weight, momentum and statistic after every step")


def _traced(run_id: str, folder: Path, steps: int) -> None:
    """Train in `folder` for that number of steps, 0 for all, and leave the checksums of all tensors after each."""
    import zlib

    import numpy as np
    import torch
    from torch.optim.optimizer import register_optimizer_step_post_hook

    from pipeline.evidence.recompute import EnoughError
    from pipeline.runner.params_file import load
    from pipeline.runner.run_hooks import RunHooks
    from pipeline.training.loop import train
    from pipeline.training.train_run import prepare

    folder.mkdir()
    training, _ = prepare(load(), run_id, folder.name, folder, RunHooks())
    tensors: dict[str, torch.Tensor] = {}
    sums = []

    def note(optimizer: torch.optim.Optimizer, *_: Any) -> None:
        tensors.update(training.model.state_dict())
        for name, parameter in training.model.named_parameters():
            tensors.update({f"{kind} of {name}": value for kind, value in optimizer.state[parameter].items()})
        # Any change of up to 32 consecutive bits changes a CRC-32; of others it misses one in 4 billion.
        crcs = [zlib.crc32(value.detach().cpu().numpy().tobytes()) for value in tensors.values()]
        sums.append(np.array(crcs, np.uint32))
        if len(sums) == steps:
            raise EnoughError

    register_optimizer_step_post_hook(note)
    with suppress(EnoughError):
        train(training, lambda *_: None)
    np.savez(folder / _CHECKSUMS, names=list(tensors), sums=np.array(sums))


if __name__ == "__main__":
    from pipeline.runner.launch import end_with

    end_with(int(sys.argv[4]))
    with exit_on_error():
        _traced(sys.argv[1], Path(sys.argv[2]), int(sys.argv[3]))
