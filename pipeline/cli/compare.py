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
    from pipeline.comparison.orderings import Judged
    from pipeline.comparison.tables import Table
    from pipeline.params import Plan

EPILOG = "Example: wrn-pipe compare --paper-table 4 --dataset cifar10 --format markdown"

_PIPED_WIDTH = 100
_NARROWEST = 72
"""Below this many columns a line of the table would break, which is harder to read than a terminal's own wrapping."""


def compare(
    paper_table: Annotated[str, typer.Option(metavar="TABLE", help=TABLES, autocompletion=completion.tables)] = "all",
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
    import shlex
    from dataclasses import replace
    from functools import partial

    from pipeline.cli.outputs import refuse_kept
    from pipeline.comparison.cells import planned
    from pipeline.comparison.formats import render, sentences, terminal
    from pipeline.comparison.orderings import judge_ordering
    from pipeline.comparison.results import load_results
    from pipeline.comparison.tables import table
    from pipeline.comparison.timings import judged, read
    from pipeline.errors import UserError
    from pipeline.runner.params_file import load

    if json:  # what most other commands have, and so what is tried
        raise UserError("compare has no --json: it writes more than that", "wrn-pipe compare --format json")
    plan = load()
    if output is not None:
        refuse_kept(output, "--output")
        if output.is_file() and b"\0" in output.read_bytes()[:4096]:
            raise UserError(f"--output {output} is a binary file", "write it under another name: --output FILE")
    if bundle:
        from pipeline.evidence.bundling import gathered

        plan, found = gathered(plan, bundle)
        checks = " and ".join(f"wrn-pipe verify --bundle {shlex.quote(str(path))}" for path in bundle)
        about = f"Taken as the archives have it; {checks} checks that.\n"
    else:
        found = load_results(Path())
        strays = ", ".join(result.run for result in found if result.run not in plan.runs)
        about = f"Ignored, because params.yaml does not name them: {strays}.\n" if strays else ""
    for run_id in set(run or ()) - {result.run for result in found if result.commit}:
        plan.run(run_id)
    if orderings and (run or timings):
        raise UserError("--orderings judges all runs and no times", "leave --run and --timings out")
    names = PAPER.table_names(paper_table)
    claims = set(PAPER.chosen(names, dataset, row))
    of, width = planned(PAPER, plan, found), _width() if output is None else _PIPED_WIDTH
    if orderings:
        ordered = [
            judge_ordering(ordering, of)
            for ordering in PAPER.orderings
            if not claims.isdisjoint(claim for pair in ordering.pairs for claim in pair)
        ]
        text, insist = sentences.render(ordered, form, width), partial(_insist_on_orderings, ordered)
    else:
        tables = [table(name, of) for name in names]
        if timings:
            times = read(timings)
            tables = [replace(each, cells=judged(each.cells, times, PAPER.hardware)) for each in tables]
        tables = _select(tables, dataset, row, run or [])
        insist = partial(_insist_on_claims, [cell for each in tables for cell in each.cells])
        if form == "terminal":
            text = terminal.render(tables, width, colour=output is None and _colour())
            text += about + _next_step(tables, of, dataset, row) + "\n"
        else:
            text = render(tables, form, PAPER)
    if output is None:
        typer.echo(text, nl=False)
    else:
        try:
            output.write_text(text, encoding="utf-8", newline="\n")
        except OSError as error:
            what = f"can not write {output}: {error.strerror}"
            raise UserError(what, "name a file in a folder that exists") from None
        typer.echo(f"wrote {output}", err=True)
    if strict:
        insist()


def _insist_on_orderings(judged: "Sequence[Judged]") -> None:
    from pipeline.comparison.orderings import Standing
    from pipeline.errors import WrnPipeError

    compared = [one for one in judged if one.standing is not Standing.NOT_RUN]
    failed = [one for one in compared if one.standing is not Standing.HOLDS]
    if failed or not compared:
        counts = f"{len(failed)} of {len(compared)} judged orderings do not hold"
        remedy = "add comparable runs: wrn-pipe plan --paper-table TABLE, then wrn-pipe repro"
        raise WrnPipeError(counts if failed else "no ordering can be judged", remedy)


def _insist_on_claims(cells: "Sequence[Cell]") -> None:
    from pipeline.comparison.statistics import Verdict
    from pipeline.errors import WrnPipeError

    compared = [cell for cell in cells if cell.kind == "runnable" and cell.runs]
    failed = [cell for cell in compared if cell.verdict not in (Verdict.REPRODUCED, Verdict.BETTER)]
    if not compared:
        what, remedy = "no finished run of these claims to compare", "wrn-pipe repro trains what params.yaml names"
        raise WrnPipeError(what, remedy)
    if failed:
        worst = failed[0]
        raise WrnPipeError(
            f"{len(failed)} of {len(compared)} compared claims do not hold; the first is {worst.model} on "
            f"{worst.dataset} (table {worst.table}): {worst.verdict}",
            "the deviations and footnotes above say why; without --strict this is not a failure",
        )


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
    coming = {cell: [run for run in _planned(cell, of.plan) if run not in finished] for cell in waiting}
    lacking = [cell for cell, wanted in waiting.items() if len(coming[cell]) < wanted]
    needs = "1 claim needs" if len(waiting) == 1 else f"{len(waiting)} claims need"
    if not lacking:
        runs = {run for each in coming.values() for run in each}
        return f"Next: {needs} comparable runs, which params.yaml has: {_repro(runs)}."
    filters = ["--paper-table", tables[0].name if len(tables) == 1 else "all"]
    filters += ["--row", row] if row else []
    filters += ["--dataset", dataset] if dataset else []
    seeds = max(seeds_to_plan(cell, PAPER) for cell in lacking)
    return (
        f"Next: {needs} comparable runs. wrn-pipe plan {shlex.join(filters)} --seeds {seeds} adds them,\n"
        "      wrn-pipe repro trains them."
    )


def _planned(cell: "Cell", plan: "Plan") -> list[str]:
    """Runs of params.yaml by the paper's protocol for the cell, finished or not."""
    from pipeline.publication.claims import canonical

    recipe = PAPER.protocol_of(cell.claim) if cell.claim else None
    wanted = (cell.dataset, canonical(cell.model), recipe and recipe.name)
    return [name for name, run in plan.runs.items() if (run.dataset, canonical(run.network), run.protocol) == wanted]


def _repro(runs: set[str]) -> str:
    """The command that trains these runs, as short as can be."""
    import shlex

    if len(runs) == 1:
        return f"wrn-pipe repro {runs.pop()} trains it"
    names = {run.rpartition("-s")[0] for run in runs}
    pattern = f" {shlex.quote(f'{names.pop()}-s*')}" if len(names) == 1 else ""
    return f"wrn-pipe repro{pattern} trains them"


def _width() -> int:
    """Columns of the terminal; of COLUMNS if set; a readable width when piped."""
    import shutil

    return max(_NARROWEST, min(shutil.get_terminal_size((_PIPED_WIDTH, 24)).columns, _PIPED_WIDTH))


def _colour() -> bool:
    import os
    import sys

    return sys.stdout.isatty() and not os.environ.get("NO_COLOR")
