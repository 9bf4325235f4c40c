"""wrn-pipe compare: the paper's tables with our results beside them, and a verdict on each number."""

import shlex
import shutil
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer
from typer import Option

from pipeline.atomic_write import writing
from pipeline.cli.options import Json, OfDataset, Row, Runs, Tables
from pipeline.cli.output import in_colour, refuse_kept
from pipeline.errors import UserError, WrnPipeError
from pipeline.publication.wide_resnet import PAPER

Format = Literal["terminal", "markdown", "latex", "csv", "json", "html"]

if TYPE_CHECKING:
    from pipeline.comparison.cells import Cell, Comparison
    from pipeline.comparison.tables import Table


def compare(
    paper_table: Tables = "all",
    form: Annotated[Format, Option("--format", help="How to print.")] = "terminal",
    output: Annotated[Path | None, Option(metavar="FILE", help="Write to FILE instead of printing.")] = None,
    strict: Annotated[
        bool, Option("--strict", help="Exit 1 unless there are runs and all claims (or orderings) with runs hold.")
    ] = False,
    run: Runs = None,
    dataset: OfDataset = None,
    row: Row = None,
    bundle: Annotated[
        list[Path] | None,
        Option(metavar="FILE", help="The runs of this archive of wrn-pipe bundle, not those here. Repeatable."),
    ] = None,
    orderings: Annotated[
        bool, Option("--orderings", help="Judge what the paper says about which network is better.")
    ] = False,
    timings: Annotated[
        Path | None, Option(metavar="FILE", help="Judge Figure 4 by what wrn-pipe bench figure-4 --json printed.")
    ] = None,
    json: Json = False,
) -> None:
    """Compare finished runs with the paper: published, ours, difference, verdict, deviations, footnotes.

    --run chooses claims that a run answers; --bundle takes the runs of an archive instead of those here. Both can be
    given several times. A claim without runs is shown as not run. --strict counts a claim as holding when the verdict
    is reproduced or better (our error is lower); inconclusive, worse and not comparable do not hold, nor does nothing
    to compare.
    """
    from pipeline.comparison.cells import planned
    from pipeline.comparison.formats import render
    from pipeline.comparison.orderings import Standing, in_words, judge_ordering
    from pipeline.comparison.results import load_results
    from pipeline.comparison.tables import table, with_times
    from pipeline.comparison.verdict_rule import Verdict
    from pipeline.runner.params_file import load

    plan, form = load(), "json" if json else form
    if output is not None:
        refuse_kept(output, "--output")
    if bundle:
        from pipeline.evidence.bundling import gathered

        plan, found = gathered(plan, bundle)
        checks = " and ".join(f"wrn-pipe verify --bundle {shlex.quote(str(path))}" for path in bundle)
        about = f"Taken as the archives have it; {checks} checks that.\n"
    else:
        found = load_results(Path())
        strays = ", ".join(result.run for result in found if not (result.commit or result.run in plan.runs))
        about = f"Ignored, because params.yaml does not name them: {strays}.\n" if strays else ""
    for run_id in set(run or ()) - {result.run for result in found if result.commit}:
        plan.run(run_id)
    if orderings and (run or timings):
        raise UserError("--orderings judges all runs and no times", "leave --run and --timings out")
    names = PAPER.table_names(paper_table)
    claims = set(PAPER.chosen(names, dataset, row))
    columns = shutil.get_terminal_size((100, 24)).columns if output is None else 100
    # In fewer than 72 a line of the table would break, which is harder to read than a terminal's own wrapping.
    of, width = planned(PAPER, plan, found), max(72, min(columns, 100))
    if orderings:
        about_these = [each for each in PAPER.orderings if any(claims.intersection(pair) for pair in each.pairs)]
        ordered = [judge_ordering(ordering, of) for ordering in about_these]
        text = in_words(ordered, form, width)
        standings = {one.ordering.text: one.standing for one in ordered if one.standing is not Standing.NOT_RUN}
        holds = {ordering: standing is Standing.HOLDS for ordering, standing in standings.items()}
    else:
        tables = [table(name, of) for name in names]
        if timings:
            tables = [with_times(each, timings) for each in tables]
        asked_for = partial(_asked_for, dataset=dataset, row=row, runs=run or ())
        reduced = [replace(each, cells=tuple(filter(asked_for, each.cells))) for each in tables]
        tables = [each for each in reduced if each.cells]
        text = render(tables, form, PAPER, width, colour=output is None and in_colour())
        if form == "terminal":
            text += about + _next_step(tables, of, dataset, row) + "\n"
        holds = {}
        for cell in (cell for each in tables for cell in each.cells):
            if cell.kind == "runnable" and cell.runs:
                name = f"{cell.model} on {cell.dataset} (table {cell.table}, {cell.metric}): {cell.verdict}"
                holds[name] = cell.verdict in (Verdict.REPRODUCED, Verdict.BETTER)
    if output is None:
        typer.echo(text, nl=False)
    else:
        with writing(output):
            output.write_text(text, encoding="utf-8", newline="\n")
        typer.echo(f"wrote {output}", err=True)
    noun, failed = "orderings" if orderings else "claims", [name for name, held in holds.items() if not held]
    if strict and not holds:
        raise WrnPipeError(f"no finished run to compare these {noun} with", "wrn-pipe repro trains the plan's")
    if strict and failed:
        raise WrnPipeError(
            f"{len(failed)} of {len(holds)} compared {noun} do not hold; the first is {failed[0]}",
            "the deviations and footnotes above say why; without --strict this is not a failure",
        )


def _asked_for(cell: "Cell", dataset: str | None, row: str | None, runs: Sequence[str]) -> bool:
    from pipeline.publication.claims import canonical

    its = {*cell.runs, *(excluded.run for excluded in cell.excluded)}
    named = row is None or canonical(row) == canonical(cell.model)
    return named and dataset in (None, cell.dataset) and (not runs or bool(its & set(runs)))


def _next_step(tables: Sequence["Table"], of: "Comparison", dataset: str | None, row: str | None) -> str:
    """What to do next, within the filters `dataset` and `row` that were given."""
    from pipeline.comparison.cells import runs_wanted
    from pipeline.evidence.provenance_summary import seeds_to_plan
    from pipeline.publication.claims import canonical

    if not tables:
        return "Next: no claim has these runs; wrn-pipe compare shows all claims."
    finished = {result.run for result in of.results}
    planned = {name: (run.dataset, canonical(run.network), run.protocol) for name, run in of.plan.runs.items()}
    coming: dict[Cell, set[str]] = {}
    for cell in (cell for table in tables for cell in table.cells):
        if cell.claim and runs_wanted(cell, PAPER) and (recipe := PAPER.protocol_of(cell.claim)):
            its = (cell.dataset, cell.claim.network, recipe.name)
            coming[cell] = {name for name, identity in planned.items() if identity == its} - finished
    if not coming:
        return "Next: nothing is open here; wrn-pipe compare --orderings judges what the text says."
    needs = "1 claim needs" if len(coming) == 1 else f"{len(coming)} claims need"
    lacking = [cell for cell, runs in coming.items() if len(runs) < (runs_wanted(cell, PAPER) or 0)]
    if not lacking:
        runs = set.union(*coming.values())
        targets = runs if len(runs) == 1 else {f"{run.rpartition('-s')[0]}-s*" for run in runs}
        target = f" {shlex.quote(targets.pop())}" if len(targets) == 1 else ""
        return f"Next: {needs} comparable runs, which params.yaml has: wrn-pipe repro{target} trains them."
    filters = {"--paper-table": tables[0].name if len(tables) == 1 else "all", "--row": row, "--dataset": dataset}
    words = shlex.join(word for option, value in filters.items() if value for word in (option, value))
    seeds = max(seeds_to_plan(cell, PAPER) for cell in lacking)
    plan = f"wrn-pipe plan {words} --seeds {seeds} adds them"
    return f"Next: {needs} comparable runs. {plan},\n      wrn-pipe repro trains them."
