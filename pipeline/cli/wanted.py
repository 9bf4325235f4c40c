"""wrn-pipe wanted: which numbers of the paper wait for runs, the cheapest first."""

from typing import Annotated

import typer

from pipeline.cli import completion
from pipeline.publication.wide_resnet import PAPER, TABLES

EPILOG = "Example: wrn-pipe wanted --paper-table 4"


def wanted(
    paper_table: Annotated[str, typer.Option(metavar="TABLE", help=TABLES, autocompletion=completion.tables)] = "all",
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """List the cells that wait for seeds, by the cost of their next look, and the command that plans the first.

    Counted are the plan's runs and evidence. Costs are estimated from multiply-adds: wrn-pipe estimate measures them.
    """
    import shlex
    from dataclasses import asdict
    from pathlib import Path

    from rich.console import Console

    from pipeline.atomic_write import json_text
    from pipeline.cli.row_table import row_table
    from pipeline.comparison.cells import planned
    from pipeline.comparison.results import load_results
    from pipeline.evidence.provenance_summary import open_cells
    from pipeline.runner.params_file import load

    plan = load()
    cells = open_cells(planned(PAPER, plan, load_results(Path())), PAPER.table_names(paper_table))
    if as_json:
        typer.echo(json_text([asdict(cell) for cell in cells]), nl=False)
        return
    if not cells:
        typer.echo("No number waits for runs: wrn-pipe compare shows the verdicts.")
        return
    Console(highlight=False).print(row_table("Cells that wait for seeds", cells))
    first = cells[0]
    words = ["--paper-table", first.table, "--row", first.network, "--dataset", first.dataset]
    typer.echo(f"The first: wrn-pipe plan {shlex.join(words)} --seeds {first.next_look}, then wrn-pipe repro.")
    typer.echo(
        "Hours are of all seeds to the next look, on 2 CPU cores or on a GPU. CONTRIBUTING.md says how to go on."
    )
