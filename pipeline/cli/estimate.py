"""wrn-pipe estimate: what the plan, or a table of the paper, takes on this machine."""

from typing import Annotated

import typer

from pipeline.cli import completion

EPILOG = "Example: wrn-pipe estimate --paper-table 4 --seeds 5"
"""Shown below the command's help."""


def estimate(
    paper_table: Annotated[
        str | None,
        typer.Option(
            metavar="TABLE",
            help="2 to 9, text or all; planned or not. [default: what params.yaml has]",
            autocompletion=completion.tables,
        ),
    ] = None,
    seeds: Annotated[int, typer.Option(min=1, help="Runs of each network of the table.")] = 1,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Hours and disk of each run on this machine, from a probe of seconds for each network; what is done, and the rest.

    Nothing is written. `wrn-pipe plan` estimates without a probe.
    """
    from dataclasses import asdict

    from rich.console import Console
    from rich.table import Table

    from pipeline.benchmarks.estimate import estimate as measure
    from pipeline.errors import UserError
    from pipeline.execution.plan import extend, groups_of, read
    from pipeline.params import PARAMS, load
    from pipeline.progress import say
    from pipeline.publication.claims import canonical, load_claims, table_names
    from pipeline.publish import json_text

    plan = load()
    run_ids = list(plan.runs)
    if paper_table is not None:
        tables = table_names(paper_table)
        groups, _ = groups_of([claim for claim in load_claims() if claim.table in tables], plan, None)
        if not groups:
            raise UserError(f"table {paper_table} has nothing to train", "choose 2, 3, 4, 5, 6, 7, 8, 9, text or all")
        plan = extend(read(PARAMS), groups, [], seeds).plan
        names = {(group.dataset, group.network, group.protocol) for group in groups}
        run_ids = [
            run_id
            for run_id, run in plan.runs.items()
            if (run.dataset, canonical(run.network), run.protocol) in names and run.seed <= seeds
        ]
    estimates = measure(plan, run_ids, say)
    if as_json:
        typer.echo(json_text([asdict(each) for each in estimates]), nl=False)
        return
    table = Table("run", title="On this machine, by a short probe", title_justify="left")
    for column in ("images/s", "hours", "MB", "done"):
        table.add_column(column, justify="right", no_wrap=True)
    for each in estimates:
        rate, done = f"{each.images_per_s:,.1f}", "yes" if each.done else ""
        table.add_row(each.run, rate, f"{each.hours:,.2f}", f"{each.megabytes:,.1f}", done)
    console = Console()
    console.print(table)
    rest = [each for each in estimates if not each.done]
    hours, megabytes = (sum(getattr(each, field) for each in estimates) for field in ("hours", "megabytes"))
    console.print(
        f"All {len(estimates)}: {hours:,.2f} hours, {megabytes:,.0f} MB. Done: {len(estimates) - len(rest)}; "
        f"the rest: {sum(each.hours for each in rest):,.2f} hours.",
        highlight=False,
    )
