"""wrn-pipe estimate: what the plan, or a table of the paper, takes on this machine."""

from typing import Annotated

import typer

from pipeline.cli import completion
from pipeline.publication.wide_resnet import PAPER, TABLES

EPILOG = "Example: wrn-pipe estimate --paper-table 4 --seeds 5"


def estimate(
    paper_table: Annotated[
        str | None,
        typer.Option(
            metavar="TABLE",
            help=f"{TABLES} Planned or not. Default: what params.yaml has.",
            autocompletion=completion.tables,
        ),
    ] = None,
    seeds: Annotated[int, typer.Option(min=1, help="Runs of each network of the table.")] = 1,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Hours and disk of each run, of each of the paper's tables and of all, from a probe of seconds for each network.

    On this machine; what is done, and the rest. Nothing is written. `wrn-pipe plan` estimates without a probe.
    """
    from dataclasses import asdict

    from rich.console import Console

    from pipeline.atomic_write import json_text
    from pipeline.benchmarks.measuring import say_if_busy
    from pipeline.benchmarks.plan_estimate import disk, sums
    from pipeline.benchmarks.plan_estimate import estimate as measure
    from pipeline.cli.row_table import row_table
    from pipeline.errors import UserError
    from pipeline.params import PARAMS
    from pipeline.progress import say
    from pipeline.publication.claims import canonical
    from pipeline.runner.params_file import load
    from pipeline.runner.plan_edit import extend, groups_of

    plan = load()
    run_ids = list(plan.runs)
    if paper_table is not None:
        tables = PAPER.table_names(paper_table)
        groups, _ = groups_of(PAPER, [claim for claim in PAPER.claims if claim.table in tables], plan, None)
        if not groups:
            raise UserError(f"table {paper_table} has nothing to train", f"choose {PAPER.trainable_tables}")
        plan = extend(PAPER, PARAMS.read_bytes().decode(), groups, [], seeds).plan
        names = {(group.dataset, group.network, group.protocol) for group in groups}
        run_ids = [
            run_id
            for run_id, run in plan.runs.items()
            if (run.dataset, canonical(run.network), run.protocol) in names and run.seed <= seeds
        ]
    say_if_busy()
    estimates = measure(PAPER, plan, run_ids, say)
    parts, space = sums(PAPER, estimates), disk(plan, estimates)
    if as_json:
        told = {"runs": [asdict(each) for each in estimates], "sums": [asdict(part) for part in parts]}
        typer.echo(json_text({**told, "disk_megabytes": space}), nl=False)
        return
    console = Console(highlight=False)
    columns = ("run", "images_per_s", "hours", "megabytes", "done")
    console.print(row_table("On this machine, by a short probe", estimates, *columns))
    for each in estimates:
        for caveat in each.caveats:
            console.print(f"{each.run}: {caveat}")
    console.print(
        row_table("Tables of the paper; a run in two of them counts in both", parts),
        f"Disk beside these weights: {space['raw']:,.0f} MB of images, {space['beton']:,.0f} MB of .beton files, "
        f"{space['dvc_copy']:,.0f} MB of DVC's copy of all (none where the disk can link files), and while a run "
        f"trains up to {space['checkpoints']:,.0f} MB of checkpoints.",
        sep="\n",
    )
