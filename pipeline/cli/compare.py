"""wrn-pipe compare: the paper's tables with our results beside them, and a verdict on each number."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from pipeline.cli import completion
from pipeline.comparison.formats import Format
from pipeline.publication.wide_resnet import PAPER, TABLES

if TYPE_CHECKING:
    from pipeline.comparison.cells import Cell, Comparison
    from pipeline.comparison.results import Result
    from pipeline.comparison.tables import Table
    from pipeline.errors import WrnPipeError
    from pipeline.params import Plan

EPILOG = "Example: wrn-pipe compare --paper-table 4 --dataset cifar10 --format markdown"
"""Shown below the command's help."""

_PIPED_WIDTH = 100
_NARROWEST = 72
"""Below this many columns a line of the table would break, which is harder to read than a terminal's own wrapping."""


def compare(
    paper_table: Annotated[
        str,
        typer.Option(
            metavar="TABLE",
            help=TABLES,
            autocompletion=completion.tables,
        ),
    ] = "all",
    form: Annotated[Format, typer.Option("--format", help="How to print.")] = "terminal",
    output: Annotated[Path | None, typer.Option(metavar="FILE", help="Write to FILE instead of printing.")] = None,
    strict: Annotated[
        bool,
        typer.Option(
            "--strict",
            help="Exit 1 unless there are runs and all claims (or orderings) with runs hold: reproduced or better.",
        ),
    ] = False,
    run: Annotated[
        list[str] | None,
        typer.Option(
            help="Only claims that this run of params.yaml answers. Repeatable.", autocompletion=completion.runs
        ),
    ] = None,
    dataset: Annotated[
        str | None, typer.Option(help="Only this dataset, such as cifar100.", autocompletion=completion.datasets)
    ] = None,
    row: Annotated[
        str | None, typer.Option(help="Only this network, as the paper prints it.", autocompletion=completion.networks)
    ] = None,
    bundle: Annotated[
        list[Path] | None,
        typer.Option(metavar="FILE", help="The runs of this archive of wrn-pipe bundle, not those here. Repeatable."),
    ] = None,
    orderings: Annotated[
        bool, typer.Option("--orderings", help="Judge what the paper says about which network is better.")
    ] = False,
    timings: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Judge Figure 4 by what wrn-pipe bench figure-4 --json printed into FILE."),
    ] = None,
    json: Annotated[bool, typer.Option("--json", hidden=True)] = False,
) -> None:
    """Compare finished runs with the paper: published, ours, difference, verdict, deviations, footnotes.

    A claim without runs is shown as not run. --strict counts a claim as holding when the verdict is reproduced or
    better (our error is lower); inconclusive, worse and not comparable do not hold, nor does nothing to compare.
    """
    from pipeline.cli.outputs import refuse_kept
    from pipeline.comparison.cells import planned
    from pipeline.comparison.results import load_results
    from pipeline.errors import UserError
    from pipeline.runner.params_file import load

    if json:  # what most other commands have, and so what is tried
        raise UserError("compare has no --json: it writes more than that", "wrn-pipe compare --format json")
    plan = load()
    if output is not None:
        refuse_kept(output, "--output")
        if output.is_file():
            with output.open("rb") as file:
                if b"\0" in file.read(4096):
                    raise UserError(f"--output {output} is a binary file", "write it under another name: --output FILE")
    if bundle:
        from pipeline.evidence.bundling import gathered

        plan, found = gathered(plan, bundle)
    else:
        found = load_results(Path())
    for run_id in run or ():
        plan.run(run_id)
    if orderings and (run or timings):
        raise UserError("--orderings judges all runs and no times", "leave --run and --timings out")
    names = PAPER.table_names(paper_table)
    PAPER.check_filters(names, dataset, row)
    of = planned(PAPER, plan, found)
    if orderings:
        text, failure = _orderings(of, names, dataset, row, form, output)
    else:
        about = _unchecked(bundle) if bundle else _ignored(found, plan)
        text, failure = _tables(of, names, dataset, row, run or [], form, output, about, timings)
    if output is None:
        typer.echo(text, nl=False)
    else:
        try:
            output.write_text(text, encoding="utf-8", newline="\n")
        except OSError as error:
            what = f"can not write {output}: {error.strerror}"
            raise UserError(what, "name a file in a folder that exists") from None
        typer.echo(f"wrote {output}", err=True)
    if strict and failure:
        raise failure


def _tables(
    of: "Comparison",
    names: Sequence[str],
    dataset: str | None,
    row: str | None,
    run: Sequence[str],
    form: Format,
    output: Path | None,
    about: str,
    measured: Path | None,
) -> "tuple[str, WrnPipeError | None]":
    """The text, in a terminal with a line `about` the runs, and with --strict why the claims do not hold."""
    from dataclasses import replace

    from pipeline.comparison.formats import render, terminal
    from pipeline.comparison.tables import table
    from pipeline.comparison.timings import judged, read

    tables = [table(name, of) for name in names]
    if measured:
        times = read(measured)
        tables = [replace(each, cells=judged(each.cells, times, PAPER.hardware)) for each in tables]
    tables = _select(tables, dataset, row, run)
    if form == "terminal" and output is None:
        text = terminal.render(tables, _width(), colour=_colour())
    else:
        text = render(tables, form, PAPER, _PIPED_WIDTH)
    if form == "terminal":
        text += about + _next_step(tables, of, dataset, row) + "\n"
    return text, _why_not_strict([cell for each in tables for cell in each.cells])


def _orderings(
    of: "Comparison",
    names: Sequence[str],
    dataset: str | None,
    row: str | None,
    form: Format,
    output: Path | None,
) -> "tuple[str, WrnPipeError | None]":
    """The text, and with --strict why the orderings do not hold."""
    from pipeline.comparison.formats import sentences
    from pipeline.comparison.orderings import Standing, judge_ordering
    from pipeline.errors import UserError, WrnPipeError

    judged = [
        judge_ordering(ordering, of)
        for ordering in PAPER.orderings
        if any(
            claim.table in names and dataset in (None, claim.dataset) and row in (None, claim.model, claim.network)
            for pair in ordering.pairs
            for claim in pair
        )
    ]
    if form == "terminal":
        text = sentences.render_text(judged, _width() if output is None else _PIPED_WIDTH)
    elif form == "markdown":
        text = sentences.render_markdown(judged)
    elif form == "csv":
        text = sentences.render_csv(judged)
    elif form == "json":
        text = sentences.render_json(judged)
    else:
        raise UserError(f"--orderings has no format {form}", "use --format terminal, markdown, csv or json")
    compared = [one for one in judged if one.standing is not Standing.NOT_RUN]
    failed = [one for one in compared if one.standing is not Standing.HOLDS]
    what = f"{len(failed)} of {len(compared)} judged orderings do not hold" if failed else "no ordering can be judged"
    remedy = "add comparable runs: wrn-pipe plan --paper-table TABLE, then wrn-pipe repro"
    return text, WrnPipeError(what, remedy) if failed or not compared else None


def _select(tables: Sequence["Table"], dataset: str | None, row: str | None, run: Sequence[str]) -> list["Table"]:
    """The tables reduced to the cells asked for, without those that have none left."""
    from dataclasses import replace

    from pipeline.publication.claims import canonical

    def wanted(cell: "Cell") -> bool:
        if dataset not in (None, cell.dataset) or (row is not None and canonical(row) != canonical(cell.model)):
            return False
        return not run or not set(run).isdisjoint([*cell.runs, *(excluded.run for excluded in cell.excluded)])

    reduced = [replace(table, cells=tuple(cell for cell in table.cells if wanted(cell))) for table in tables]
    return [table for table in reduced if table.cells]


def _next_step(tables: Sequence["Table"], of: "Comparison", dataset: str | None, row: str | None) -> str:
    """What to do next, within the filters `dataset` and `row` that were given."""
    import shlex

    from pipeline.comparison.cells import runs_wanted
    from pipeline.evidence.provenance_summary import seeds_to_plan

    waiting = {cell: wanted for table in tables for cell in table.cells if (wanted := runs_wanted(cell, PAPER))}
    if not tables:
        return "Next: no claim has these runs; wrn-pipe compare shows all claims."
    if not waiting:
        return "Next: nothing is open here; wrn-pipe compare --orderings judges what the text says."
    finished = {result.run for result in of.results}
    planned = {cell: [run for run in _planned(cell, of.plan) if run not in finished] for cell in waiting}
    lacking = [cell for cell, wanted in waiting.items() if len(planned[cell]) < wanted]
    if not lacking:
        runs = list(dict.fromkeys(run for cell in waiting for run in planned[cell]))
        return f"Next: {_claims(len(waiting))} comparable runs, which params.yaml has: {_repro(runs)}."
    filters = ["--paper-table", tables[0].name if len(tables) == 1 else "all"]
    filters += ["--row", row] if row else []
    filters += ["--dataset", dataset] if dataset else []
    seeds = max(seeds_to_plan(cell, PAPER) for cell in lacking)
    return (
        f"Next: {_claims(len(waiting))} comparable runs. "
        f"wrn-pipe plan {shlex.join(filters)} --seeds {seeds} adds them,\n      wrn-pipe repro trains them."
    )


def _ignored(results: Sequence["Result"], plan: "Plan") -> str:
    """A line on runs that only evaluations/ knows; empty where there are none."""
    strays = [result.run for result in results if result.run not in plan.runs]
    return f"Ignored, because params.yaml does not name them: {', '.join(strays)}.\n" if strays else ""


def _unchecked(bundles: Sequence[Path]) -> str:
    import shlex

    names = [f"wrn-pipe verify --bundle {shlex.quote(str(path))}" for path in bundles]
    return f"Taken as the archives have it; {' and '.join(names)} checks that.\n"


def _claims(count: int) -> str:
    return "1 claim needs" if count == 1 else f"{count} claims need"


def _planned(cell: "Cell", plan: "Plan") -> list[str]:
    """Runs of params.yaml by the paper's protocol for the cell, finished or not."""
    from pipeline.publication.claims import canonical
    from pipeline.runner.plan_edit import groups_of

    groups, _ = groups_of(PAPER, [cell.claim] if cell.claim else [], plan, None)
    wanted = {(group.dataset, group.network, group.protocol) for group in groups}
    return [name for name, run in plan.runs.items() if (run.dataset, canonical(run.network), run.protocol) in wanted]


def _repro(runs: Sequence[str]) -> str:
    """The command that trains these runs, as short as can be."""
    import shlex

    if len(runs) == 1:
        return f"wrn-pipe repro {runs[0]} trains it"
    names = {run.rpartition("-s")[0] for run in runs}
    pattern = f" {shlex.quote(f'{names.pop()}-s*')}" if len(names) == 1 else ""
    return f"wrn-pipe repro{pattern} trains them"


def _why_not_strict(cells: Sequence["Cell"]) -> "WrnPipeError | None":
    """None where some claim has runs and all that have runs are reproduced or better."""
    from pipeline.comparison.statistics import Verdict
    from pipeline.errors import WrnPipeError

    compared = [cell for cell in cells if cell.kind == "runnable" and cell.runs]
    failed = [cell for cell in compared if cell.verdict not in (Verdict.REPRODUCED, Verdict.BETTER)]
    if not compared:
        return WrnPipeError(
            "no finished run of these claims to compare", "wrn-pipe repro trains what params.yaml names"
        )
    if not failed:
        return None
    worst = failed[0]
    return WrnPipeError(
        f"{len(failed)} of {len(compared)} compared claims do not hold; the first is {worst.model} on "
        f"{worst.dataset} (table {worst.table}): {worst.verdict}",
        "the deviations and footnotes above say why; without --strict this is not a failure",
    )


def _width() -> int:
    """Columns of the terminal; of COLUMNS if set; a readable width when piped."""
    import shutil

    return max(_NARROWEST, min(shutil.get_terminal_size((_PIPED_WIDTH, 24)).columns, _PIPED_WIDTH))


def _colour() -> bool:
    import os
    import sys

    return sys.stdout.isatty() and not os.environ.get("NO_COLOR")
