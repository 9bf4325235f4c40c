"""What the shell offers at Tab: words of params.yaml and of the paper, nothing when params.yaml is broken.

typer leaves out what does not begin with what is typed.
"""

from collections.abc import Callable
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


def _of_plan(section: str) -> Callable[[], list[str]]:
    return lambda: list(getattr(_plan(), section, ()))


def _of_claims(column: str) -> Callable[[], list[str]]:
    """The values of claims.csv, unchecked: checking them takes a second."""

    def words() -> list[str]:
        import csv

        from pipeline.publication.wide_resnet import PAPER

        with (PAPER.folder / "claims.csv").open(encoding="utf-8", newline="") as file:
            return list(dict.fromkeys(row[column] for row in csv.DictReader(file)))

    return words


runs, planned_datasets = _of_plan("runs"), _of_plan("datasets")
datasets, networks = _of_claims("dataset"), _of_claims("model")


def protocols() -> list[str]:
    from pipeline.publication.wide_resnet import PAPER

    return list(dict.fromkeys([*_of_plan("protocols")(), *PAPER.protocols]))


def single_tables() -> list[str]:
    from pipeline.publication.wide_resnet import PAPER

    return list(PAPER.tables)


def tables() -> list[str]:
    return [*single_tables(), "all"]


def targets() -> list[str]:
    """What `wrn-pipe repro` takes: run ids, kinds of stages and stages."""
    from pipeline.runner.dag import read_dag

    stages = read_dag(plan) if (plan := _plan()) else {}
    return list(dict.fromkeys([*runs(), *(stage.kind for stage in stages.values()), *stages]))


def stages() -> list[str]:
    return list(STAGES)


def stage_keys(context: typer.Context) -> list[str]:
    """What the stage that was typed before can work on."""
    from pipeline.runner.dag import read_dag

    stages = read_dag(plan) if (plan := _plan()) else {}
    return [stage.key for stage in stages.values() if stage.kind == context.params.get("name") and stage.key]
