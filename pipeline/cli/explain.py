"""wrn-pipe explain: what stands behind one place of the paper's tables."""

from typing import Annotated

import typer

from pipeline.cli import completion
from pipeline.publication.wide_resnet import ONE_TABLE, PAPER

EPILOG = "Example: wrn-pipe explain --paper-table 4 --row WRN-40-1 --dataset cifar10"


def explain(
    paper_table: Annotated[str, typer.Option(metavar="TABLE", help=ONE_TABLE, autocompletion=completion.single_tables)],
    row: Annotated[
        str, typer.Option(help="A network of it, as the paper prints it.", autocompletion=completion.networks)
    ],
    dataset: Annotated[
        str | None, typer.Option(help="Only this dataset, such as cifar100.", autocompletion=completion.datasets)
    ] = None,
    json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Tell what the paper claims in a row of a table and where it says so, what stands behind our number, and why the
    verdict is what it is.
    """
    from pipeline.atomic_write import json_text
    from pipeline.evidence import provenance_summary
    from pipeline.runner.params_file import load

    told = provenance_summary.of_claims(PAPER, load(), paper_table, row, dataset)
    typer.echo(json_text(told) if json else provenance_summary.as_text(told, PAPER), nl=False)
