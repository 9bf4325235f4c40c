"""wrn-pipe stage: run one stage directly."""

from typing import Annotated, Any

import typer

NAMES = ("download", "convert", "train", "evaluate", "summarize", "tabulate")


def stage(
    name: Annotated[str, typer.Argument(help=f"One of {', '.join(NAMES)}.")],
    key: Annotated[
        str | None,
        typer.Argument(metavar="RUN", help="What it works on: a run id, dataset, representation or table."),
    ] = None,
) -> None:
    """Run one stage by itself, without DVC: its inputs are taken as they are and nothing is recorded in dvc.lock."""
    from importlib import import_module

    from pipeline.errors import UserError
    from pipeline.params import load, nearest

    if name not in NAMES:
        raise UserError(f"no stage {name!r}", nearest(name, NAMES, "stage"))
    plan = load()
    keys: dict[str, Any] = {
        "download": plan.datasets,
        "convert": plan.representations,
        "train": plan.runs,
        "evaluate": plan.runs,
        "tabulate": dict.fromkeys(plan.tables),
    }
    if name not in keys:
        if key is not None:
            raise UserError(f"stage {name} takes no second word, got {key!r}", f"wrn-pipe stage {name}")
        import_module(f"stages.{name}").main()
        return
    if key is None:
        raise UserError(f"stage {name} of what?", f"wrn-pipe stage {name} {next(iter(keys[name]), 'KEY')}")
    if key not in keys[name]:
        raise UserError(f"params.yaml has no {key!r} for stage {name}", nearest(key, keys[name], f"{name} key"))
    import_module(f"stages.{name}").main(key)
