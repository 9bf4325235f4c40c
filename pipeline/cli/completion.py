"""What the shell offers at Tab: words of params.yaml and of the paper, nothing when params.yaml is broken.

typer leaves out what does not begin with what is typed.
"""

from typing import TYPE_CHECKING

import typer

if TYPE_CHECKING:
    from pipeline.params import Plan

STAGES = ("download", "convert", "train", "evaluate", "summarize", "tabulate", "manifest", "report")


def _plan() -> "Plan | None":
    from pipeline.errors import UserError
    from pipeline.runner.params_file import load

    try:
        return load()
    except UserError:  # whatever command is being typed will say what is wrong
        return None


def runs() -> list[str]:
    plan = _plan()
    return list(plan.runs) if plan else []


def protocols() -> list[str]:
    from pipeline.publication.wide_resnet import PAPER

    plan = _plan()
    return list(dict.fromkeys([*(plan.protocols if plan else ()), *PAPER.protocols]))


def planned_datasets() -> list[str]:
    plan = _plan()
    return list(plan.datasets) if plan else []


def datasets() -> list[str]:
    """Of the paper's tables."""
    return _of_claims("dataset")


def networks() -> list[str]:
    """As the paper prints them."""
    return _of_claims("model")


def single_tables() -> list[str]:
    from pipeline.publication.wide_resnet import PAPER

    return list(PAPER.tables)


def tables() -> list[str]:
    return [*single_tables(), "all"]


def targets() -> list[str]:
    """What `wrn-pipe repro` takes: run ids, kinds of stages and stages."""
    from pipeline.runner.dag import read_dag

    plan = _plan()
    stages = read_dag(plan) if plan else {}
    return list(dict.fromkeys([*(plan.runs if plan else ()), *(stage.kind for stage in stages.values()), *stages]))


def stages() -> list[str]:
    return list(STAGES)


def stage_keys(context: typer.Context) -> list[str]:
    """What the stage that was typed before can work on."""
    from pipeline.runner.dag import read_dag

    plan, kind = _plan(), context.params.get("name")
    return [stage.key for stage in read_dag(plan).values() if stage.kind == kind and stage.key] if plan else []


def _of_claims(column: str) -> list[str]:
    """The values of claims.csv, unchecked: checking them takes a second."""
    import csv

    from pipeline.publication.wide_resnet import PAPER

    with (PAPER.folder / "claims.csv").open(encoding="utf-8", newline="") as file:
        return list(dict.fromkeys(row[column] for row in csv.DictReader(file)))
