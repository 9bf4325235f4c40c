"""wrn-pipe plan: write the runs behind the paper's numbers into params.yaml."""

import difflib
import sys
import textwrap
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from typer import Option

from pipeline.cli.options import OfDataset, Row, Tables, of_plan
from pipeline.cli.output import in_colour
from pipeline.errors import UserError
from pipeline.progress import counted
from pipeline.publication.wide_resnet import PAPER

if TYPE_CHECKING:
    from collections.abc import Sequence

    from pipeline.params import Plan
    from pipeline.runner.plan_edit import Addition, Group


def _protocols() -> list[str]:
    return list(dict.fromkeys([*of_plan("protocols")(), *PAPER.protocols]))


def plan(
    paper_table: Tables,
    row: Row = None,
    dataset: OfDataset = None,
    seeds: Annotated[int, Option(min=1, help="Runs of each network: seeds 1 to this.")] = 5,
    protocol: Annotated[
        str | None, Option(help="Train by this one. Default: the paper's for each number.", autocompletion=_protocols)
    ] = None,
    yes: Annotated[bool, Option("--yes", "-y", help="Write without asking.")] = False,
    dry_run: Annotated[bool, Option("--dry-run", help="Show the difference, write nothing.")] = False,
) -> None:
    """Add the runs behind a table of the paper to params.yaml, with the protocols and datasets that they need.

    Shows the difference and asks before it writes; where nobody can be asked (no terminal), it writes with --yes only.
    --protocol trains all of them by one of params.yaml or of the paper, such as quick.
    What params.yaml has already stays as it is, so a second time adds nothing, and of what is in evidence/ no seed is
    planned again. Nothing is trained: wrn-pipe repro does.
    Exit code: 0 done, also when nothing was written; 2 a mistake you can fix.
    """
    from pipeline.params import PARAMS
    from pipeline.runner.params_file import load
    from pipeline.runner.plan_edit import extend, groups_of, write

    tables, now = PAPER.table_names(paper_table), load()
    groups, left_out = groups_of(PAPER, PAPER.chosen(tables, dataset, row), now, protocol)
    if not groups:
        raise UserError(
            f"nothing to train for these numbers: {'; '.join(left_out)}",
            f"choose a table with errors that the paper measured itself: {PAPER.trainable_tables}",
        )
    needed = {claim.table for group in groups for claim in group.claims}
    text = PARAMS.read_bytes().decode()  # with its own line breaks
    known = {} if protocol else _seeds_in_evidence(groups, now)
    addition = extend(PAPER, text, groups, [table for table in tables if table in needed], seeds, known)
    if left_out:
        typer.echo(f"Left out: {'; '.join(left_out)}.")
    if addition.after == addition.before:
        typer.echo(f"Nothing to add: {PARAMS} or evidence/ has {counted(addition.present, 'run')} of these already.")
        return
    _show(addition)
    typer.echo(_outlook(addition, seeds))
    if dry_run:
        typer.echo(f"{PARAMS} is unchanged (--dry-run).")
    elif not yes and not (sys.stdin and sys.stdin.isatty() and sys.stdout.isatty()):
        typer.echo(f"{PARAMS} is unchanged: there is no terminal to ask on. Add --yes to write this.")
    elif yes or typer.confirm(f"Write this to {PARAMS}?"):
        write(PARAMS, addition)
        typer.echo(f"Wrote {PARAMS}. Next: wrn-pipe repro --dry shows what would run, wrn-pipe repro runs it.")
    else:
        typer.echo(f"{PARAMS} is unchanged.")


def _seeds_in_evidence(groups: "Sequence[Group]", now: "Plan") -> "dict[Group, set[int]]":
    """Of each group those of which evidence has a run that is comparable with the paper's."""
    from pipeline.comparison.cells import cell_of, planned
    from pipeline.comparison.results import load_results

    of = planned(PAPER, now, [result for result in load_results(Path()) if result.commit])
    cells = {group: [cell_of(claim, of) for claim in group.claims] for group in groups}
    return {
        group: {run.result.record.seed for cell in its for run in cell.shown if not run.material}
        for group, its in cells.items()
    }


def _show(addition: "Addition") -> None:
    """The unified difference, in colour on a terminal, and what it adds up to."""
    before, after = addition.before.splitlines(), addition.after.splitlines()
    for line in difflib.unified_diff(before, after, "params.yaml", "params.yaml (planned)", lineterm=""):
        style = {"+": "green", "-": "red", "@": "cyan"}.get(line[0])
        typer.echo(typer.style(line, fg=style) if in_colour() else line)
    verb = "is" if addition.present == 1 else "are"
    already = f" ({addition.present} more {verb} there already)" if addition.present else ""
    runs = counted(sum(map(len, addition.added.values())), "run")
    typer.echo(f"\nAdds {runs}{already}: {addition.cost} in all, estimated.")


def _outlook(addition: "Addition", seeds: int) -> str:
    """What the added runs could tell of the paper's numbers and orderings."""
    from pipeline.comparison.statistical_power import of_claim, of_ordering
    from pipeline.comparison.verdict_rule import LOOKS
    from pipeline.publication.claims import canonical

    pairs = [(group.protocol, claim) for group in addition.added for claim in group.claims]
    claims = [claim for name, claim in pairs if (recipe := PAPER.protocol_of(claim)) and recipe.name == name]
    if not claims:
        return "They say nothing about the paper's numbers, which were measured by another protocol."
    if seeds < LOOKS[0]:
        return f"Fewer than {LOOKS[0]} seeds of a network are not judged: --seeds {LOOKS[0]} or more."
    found = [one for claim in claims if (one := of_claim(claim, addition.plan, seeds, PAPER))]
    if not found:
        return "params.yaml has no margin to judge them by: comparison.margins."
    reproduced, one_off, two_off = (
        _range([100 * getattr(one, name) for one in found]) for name in ("reproduced", "differs_one", "differs_two")
    )
    lines = [
        f"Where a number of the paper holds, {seeds} seeds say reproduced in {reproduced} of 100 cases; where it is "
        f"one margin off,\nthey say better or worse in {one_off}, two margins off in {two_off} "
        "(should runs spread as published re-runs do)."
    ]
    runs = Counter((run.dataset, canonical(run.network), run.protocol) for run in addition.plan.runs.values())
    for ordering in PAPER.orderings:
        sides = {claim for pair in ordering.pairs for claim in pair if claim.kind != "quoted"}
        keys = {(claim.dataset, claim.network, recipe.name) for claim in sides if (recipe := PAPER.protocol_of(claim))}
        if sides & set(claims) and all(runs[key] >= seeds for key in keys):
            power = 100 * of_ordering(ordering.pairs, seeds, PAPER)
            told = f"{ordering.text} They show it in {power:.0f} of 100 cases, if the paper's numbers are true."
            lines.extend(textwrap.wrap(told, 110))
    return "\n".join(lines)


def _range(values: list[float]) -> str:
    low, high = f"{min(values):.0f}", f"{max(values):.0f}"
    return low if low == high else f"{low} to {high}"
