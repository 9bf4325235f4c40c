"""wrn-pipe estimate: what the plan, or a table of the paper, takes on this machine."""

from typing import Annotated

from typer import Option

from pipeline.cli.options import TABLES, Json, any_table
from pipeline.cli.output import print_json, row_table
from pipeline.errors import UserError
from pipeline.publication.wide_resnet import PAPER


def estimate(
    paper_table: Annotated[str | None, Option(metavar="TABLE", help=TABLES, autocompletion=any_table)] = None,
    seeds: Annotated[int, Option(min=1, help="Runs of each network of the table.")] = 1,
    as_json: Json = False,
) -> None:
    """Hours and disk of each run, of each of the paper's tables and of all, from a probe of seconds for each network.

    Of what params.yaml has, or of a table, planned or not, on this machine; what is done, and the rest. Nothing is
    written. `wrn-pipe plan` estimates without a probe.
    """
    from rich.console import Console

    from pipeline.benchmarks import plan_estimate
    from pipeline.benchmarks.measuring import say_if_busy
    from pipeline.params import PARAMS
    from pipeline.publication.claims import canonical
    from pipeline.runner.params_file import load
    from pipeline.runner.plan_edit import extend, groups_of

    plan = load()
    run_ids = list(plan.runs)
    if paper_table is not None:
        groups, _ = groups_of(PAPER, PAPER.chosen(PAPER.table_names(paper_table), None, None), plan, None)
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
    estimates = plan_estimate.estimate(PAPER, plan, run_ids)
    parts, space = plan_estimate.sums(PAPER, estimates), plan_estimate.disk(plan, estimates)
    if as_json:
        print_json({"runs": estimates, "sums": parts, "disk_megabytes": space})
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
