"""What commands print and write: JSON, tables for the terminal, and files that a user names."""

import json
import os
import sys
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import typer

from pipeline.errors import UserError

if TYPE_CHECKING:
    from rich.table import Table

    from pipeline.evidence.run_check import Finding


def print_json(value: Any) -> None:
    """With sorted keys; dataclasses in it become objects."""
    typer.echo(json.dumps(value, indent=2, sort_keys=True, ensure_ascii=False, default=asdict))


def in_colour() -> bool:
    """On a terminal, unless told otherwise: https://no-color.org."""
    return sys.stdout.isatty() and not os.environ.get("NO_COLOR")


def row_table(title: str, rows: Sequence[Any], *columns: str) -> "Table":
    """A table of dataclasses or dictionaries, a column for each field, or for those named."""
    from rich.table import Table

    told = [row if isinstance(row, dict) else vars(row) for row in rows]
    values = {name: [row[name] for row in told] for name in columns or (told[0] if told else ())}
    for name, column in list(values.items()):  # what all rows have in common is said once, which leaves room
        if len(rows) > 1 and isinstance(column[0], str | int) and len(set(column)) == 1:
            title += f"; {name.replace('_', ' ')} {_cell(values.pop(name)[0])}"
    table = Table(title=title, title_justify="left")
    for name, column in values.items():
        # Of a narrow terminal the headings may fold, the cells never.
        justify: Literal["left", "right"] = "left" if isinstance(column[0], str) else "right"
        widest = max(len(_cell(value)) for value in column)
        table.add_column(name.replace("_", " ").replace(" per ", "/"), justify=justify, min_width=widest)
    for row in zip(*values.values(), strict=True):
        table.add_row(*map(_cell, row))
    return table


def _cell(value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else ""
    if isinstance(value, float):
        return f"{value:,.0f}" if value >= 100 else f"{value:,.2f}"
    return "" if value is None else str(value)


def some(reasons: Iterable[str]) -> str:
    """The first three, and how many more there are."""
    why = list(dict.fromkeys(reasons))  # of two stages one may have the other's
    return "; ".join([*why[:3], *([f"and {len(why) - 3} more"] if len(why) > 3 else [])])


def report(findings: "Iterable[Finding]", json: bool, fix: str, absent: str) -> None:
    """Print each finding as it comes, then how many there are and what to do; exit 1 if any is wrong.

    `fix` is said when some are wrong, `absent` when some are only not checked.
    """
    found = []
    colours = {"right": "green", "wrong": "red", "unchecked": "yellow"}
    for finding in findings:
        found.append(finding)
        if not json:
            state = typer.style(f"{finding.state:<9}", fg=colours[finding.state])
            typer.echo(f"{state}  {finding.path}  {'; '.join(filter(None, (finding.why, finding.fix)))}")
    counts = dict.fromkeys(colours, 0) | Counter(each.state for each in found)
    if json:
        print_json({**counts, "findings": found})
    else:
        typer.echo(f"{counts['right']} right, {counts['wrong']} wrong, {counts['unchecked']} not checked.")
        if wrong := dict.fromkeys(each.path for each in found if each.state == "wrong"):
            typer.echo(f"Wrong: {', '.join(wrong)}\n{fix}")
        elif counts["unchecked"]:
            typer.echo(absent)
    if counts["wrong"]:
        raise typer.Exit(1)


def refuse_kept(to: Path, option: str) -> None:
    """Raise UserError where there is no folder for `to`, git tracks it, or it lies where a stage reads or writes."""
    from pipeline.provenance import DAG, git
    from pipeline.runner.dag import stages

    if not to.parent.is_dir():
        raise UserError(f"{option} {to}: no folder {to.parent}", "name a file in a folder that exists")
    root = Path.cwd()
    for place in {to.absolute(), to.resolve()}:  # a link, and what it leads to
        tracked = git("--literal-pathspecs", "ls-files", "--", place.name, root=place.parent)
        what = "a file that git tracks" if tracked else None
        for stage in stages(root) if DAG.is_file() else ():
            if any(place.is_relative_to(root / path) for path in (*stage.deps, *stage.outs)):
                what = f"what {stage.name} reads or writes"
        if what:
            raise UserError(f"{option} {to} is {what}", f"write it under another name: {option} FILE")
