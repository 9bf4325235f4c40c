"""wrn-pipe explain: what stands behind one place of the paper's tables."""

from typing import Annotated

import typer
from typer import Option

from pipeline.cli.options import Json, OfDataset, networks
from pipeline.cli.output import print_json
from pipeline.publication.wide_resnet import PAPER


def explain(
    paper_table: Annotated[
        str, Option(metavar="TABLE", help=f"{', '.join(PAPER.tables)}.", autocompletion=lambda: list(PAPER.tables))
    ],
    row: Annotated[str, Option(help="A network of it, as the paper prints it.", autocompletion=networks)],
    dataset: OfDataset = None,
    json: Json = False,
) -> None:
    """Tell what the paper claims in a row of a table and where it says so, what stands behind our number, and why the
    verdict is what it is."""
    from pipeline.evidence import provenance_summary, provenance_text
    from pipeline.runner.params_file import load

    told = provenance_summary.of_claims(PAPER, load(), paper_table, row, dataset)
    if json:
        print_json(told)
    else:
        typer.echo(provenance_text.claims(told, PAPER), nl=False)
