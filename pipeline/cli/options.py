"""Arguments and options that several commands share, and the words that the shell offers for them at Tab: those of
params.yaml and of the paper, none where params.yaml is broken."""

import csv
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from typer import Argument, Option

from pipeline.errors import UserError
from pipeline.publication.wide_resnet import PAPER

if TYPE_CHECKING:
    from pipeline.params import Plan
    from pipeline.runner.dag import Stage


def _plan() -> "Plan | None":
    from pipeline.runner.params_file import load

    try:
        return load()
    except UserError:  # whatever command is being typed will say what is wrong
        return None


def of_plan(section: str) -> Callable[[], list[str]]:
    """The names in a section of params.yaml."""
    return lambda: list(getattr(_plan(), section, ()))


def planned_stages() -> "list[Stage]":
    """Those of params.yaml."""
    from pipeline.runner.dag import read_dag

    return list(read_dag(plan).values()) if (plan := _plan()) else []


def _claimed(column: str) -> Callable[[], list[str]]:
    """The values of claims.csv, unchecked: checking them takes a second."""

    def words() -> list[str]:
        with (PAPER.folder / "claims.csv").open(encoding="utf-8", newline="") as file:
            return list(dict.fromkeys(row[column] for row in csv.DictReader(file)))

    return words


networks = _claimed("model")


_TABLES = [*PAPER.tables, "all"]
_TABLE = Option(
    "--paper-table", metavar="TABLE", help=f"{', '.join(PAPER.tables)}, or all.", autocompletion=lambda: _TABLES
)
Tables = Annotated[str, _TABLE]
OptionalTables = Annotated[str | None, _TABLE]
Row = Annotated[str | None, Option(help="Only this network, as the paper prints it.", autocompletion=networks)]
OfDataset = Annotated[
    str | None, Option("--dataset", help="Only this dataset, such as cifar100.", autocompletion=_claimed("dataset"))
]
Runs = Annotated[
    list[str] | None, Option("--run", metavar="RUN", help="Only this run. Repeatable.", autocompletion=of_plan("runs"))
]
Run = Annotated[str, Argument(help="A run of params.yaml.", autocompletion=of_plan("runs"))]
To = Annotated[Path, Option(metavar="FILE", help="The file to write.")]
Budget = Annotated[
    str | None, Option("--for", metavar="TIME", help="Let trainings save and end within this time, such as 2h30m.")
]
Json = Annotated[bool, Option("--json", help="Print JSON.")]
