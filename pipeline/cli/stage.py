"""wrn-pipe stage: run one stage directly."""

from collections.abc import Callable
from functools import partial
from typing import Annotated, Any, Literal

import typer

from pipeline.cli import completion


def stage(
    name: Annotated[
        str, typer.Argument(help=f"One of {', '.join(completion.STAGES)}.", autocompletion=completion.stages)
    ],
    key: Annotated[
        str | None,
        typer.Argument(
            metavar="RUN",
            help="What it works on: a run id, dataset, representation or table.",
            autocompletion=completion.stage_keys,
        ),
    ] = None,
    fresh: Annotated[bool, typer.Option("--fresh", help="train: forget what earlier attempts saved.")] = False,
    wait: Annotated[
        bool, typer.Option("--wait", help="train: wait while another process trains this run, instead of leaving.")
    ] = False,
    checkpoint_steps: Annotated[
        int | None,
        typer.Option(
            metavar="N",
            min=1,
            help="train: save the state after every N steps; else as often as costs below 1 % of the time.",
            show_default=False,
        ),
    ] = None,
    nproc: Annotated[
        str | None,
        typer.Option(
            metavar="N|auto",
            help="train: by N processes, or one for each GPU; else by as many as the protocol says.",
            show_default=False,
        ),
    ] = None,
    budget: Annotated[
        str | None,
        typer.Option(
            "--for", metavar="TIME", help="train: save and end within this time, such as 2h30m.", show_default=False
        ),
    ] = None,
    twice: Annotated[
        bool,
        typer.Option("--twice", help="train: train twice, in scratch/ only, and compare every byte of every step."),
    ] = False,
    steps: Annotated[
        int | None, typer.Option(min=1, help="With --twice: only this number of steps.", show_default=False)
    ] = None,
) -> None:
    """Run one stage by itself, without DVC: its inputs are taken as they are and nothing is recorded in dvc.lock.

    Exit code: 0 done, 1 failed or (--twice) not equal, 2 a usage error, 75 the time of --for is over, 130
    or 143 stopped by a signal.
    """
    import sys
    from importlib import import_module
    from shlex import join

    from pipeline.errors import UserError
    from pipeline.params import nearest
    from pipeline.runner.dag import read_dag
    from pipeline.runner.dvc import how_far
    from pipeline.runner.interruptions import time_budget
    from pipeline.runner.params_file import load
    from pipeline.runner.stage_entry import stage_attempt

    if name not in completion.STAGES:
        raise UserError(f"no stage {name!r}", nearest(name, completion.STAGES, "stage"))
    plan = load()
    keys = [stage.key for stage in read_dag(plan).values() if stage.kind == name]
    given = {
        "--fresh": fresh,
        "--wait": wait,
        "--checkpoint-steps": checkpoint_steps,
        "--nproc": nproc,
        "--for": budget,
    }
    options = [option for option, value in (given | {"--twice": twice}).items() if value]
    if options and name != "train":
        raise UserError(f"stage {name} has no option {options[0]}", "it is one of wrn-pipe stage train RUN")
    if twice and len(options) > 1:
        raise UserError(f"--twice with {options[0]}", "give one of them: --twice starts again, in folders of its own")
    if steps and not twice:
        raise UserError("--steps without --twice", "add --twice: a training of fewer steps is no result")
    single = keys == [""]
    if single and key is not None:
        raise UserError(f"stage {name} takes no second word, got {key!r}", f"wrn-pipe stage {name}")
    if not single and key is None:
        raise UserError(f"stage {name} of what?", f"wrn-pipe stage {name} {next(iter(keys), 'KEY')}")
    if key is not None and key not in keys:
        raise UserError(f"params.yaml has no {key!r} for stage {name}", nearest(key, keys, f"{name} key"))
    if key is not None and twice:
        from pipeline.cli.twice import compare

        compare(key, steps)
        return
    words, again = [] if key is None else [key], join(["wrn-pipe", *sys.argv[1:]])
    more: dict[str, Any] = {}
    if name == "train":
        more = {"fresh": fresh, "wait": wait, "checkpoint_steps": checkpoint_steps, "nproc": _processes(nproc)}
    kept: Callable[[], str] | None = None
    if name == "download":
        # Now, and not when it is told: numpy, which this imports, cannot be imported again where a signal broke it off.
        from stages import download

        kept = partial(download.kept, *words)
    far = partial(how_far, plan, [f"{name}@{key}"])
    with time_budget(budget, again, far), stage_attempt("@".join([name, *words]), kept):
        import_module(f"stages.{name}").main(*words, **more)


def _processes(words: str | None) -> Literal["auto"] | int | None:
    from pipeline.errors import UserError

    if words is None:
        return None
    if words == "auto":
        return "auto"
    if not words.isdecimal() or int(words) == 0:
        raise UserError(
            f"--nproc {words}: invalid number of processes", "give one, such as 2, or auto: one for each GPU"
        )
    return int(words)
