"""wrn-pipe wanted: which numbers of the paper wait for runs, the cheapest first."""

import shlex
from pathlib import Path

import typer

from pipeline.cli.options import Json, Tables
from pipeline.cli.output import print_json, row_table
from pipeline.publication.wide_resnet import PAPER


def wanted(paper_table: Tables = "all", as_json: Json = False) -> None:
    """List the cells that wait for seeds, by the cost of their next look, and the command that plans the first.

    Counted are the plan's runs and evidence. Costs are estimated from multiply-adds: wrn-pipe estimate measures them.
    """
    from rich.console import Console

    from pipeline.comparison.cells import planned
    from pipeline.comparison.results import load_results
    from pipeline.evidence.open_cells import open_cells
    from pipeline.runner.params_file import load

    cells = open_cells(planned(PAPER, load(), load_results(Path())), PAPER.table_names(paper_table))
    if as_json:
        print_json(cells)
    elif cells:
        Console(highlight=False).print(row_table("Cells that wait for seeds", cells))
        first = cells[0]
        words = shlex.join(["--paper-table", first.table, "--row", first.network, "--dataset", first.dataset])
        typer.echo(
            f"The first: wrn-pipe plan {words} --seeds {first.next_look}, then wrn-pipe repro.\n"
            "Hours are of all seeds to the next look, on 2 CPU cores or on a GPU. CONTRIBUTING.md says how to go on."
        )
    else:
        typer.echo("No number waits for runs: wrn-pipe compare shows the verdicts.")
