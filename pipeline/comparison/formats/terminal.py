"""Comparisons for a terminal, by rich: legible to a newcomer, within the given width, and plain when piped."""

import io
import re
from collections.abc import Sequence

from rich import box
from rich.console import Console
from rich.table import Table as Grid
from rich.text import Text

from pipeline.comparison.formats import cell_text
from pipeline.comparison.tables import Column, Table

STYLES = {
    **dict.fromkeys(("reproduced", "same count", "same order"), "green"),
    **dict.fromkeys(("worse", "other count", "other order"), "red"),
    **dict.fromkeys(("inconclusive", "not comparable"), "yellow"),
    "better": "cyan",
}
"""First words of a verdict -> colour. Colour repeats what the words say, so nothing is lost without it."""


def render(tables: Sequence[Table], width: int, *, colour: bool = False) -> str:
    """Text of at most `width` columns, without trailing blanks; ANSI codes only with `colour`."""
    written = io.StringIO()
    console = Console(
        file=written,
        width=width,
        force_terminal=colour,
        color_system="standard" if colour else None,
        highlight=False,
        legacy_windows=False,
        # Without this rich reads COLUMNS, TERM and NO_COLOR: the same tables must give the same text.
        _environ={},
    )
    for table in tables:
        _print(console, table)
    text = "\n".join(line.rstrip() for line in written.getvalue().split("\n"))
    return re.sub("\n{3,}", "\n\n", text)


def _print(console: Console, table: Table) -> None:
    letters = cell_text.letters_of(table)
    console.print(Text(table.title, style="bold"))
    console.print(Text(cell_text.summary(table)))
    # What is judged comes first; counts and timings are what the eye can skip.
    for column in sorted(table.columns, key=lambda column: column.metric not in cell_text.JUDGED):
        console.print()
        console.print(_section(table, column, letters))
    for title, notes in cell_text.notes(table, letters):
        console.print()
        console.print(Text(title, style="bold"))
        listed = Grid.grid(padding=(0, 1, 0, 0))
        listed.add_column(no_wrap=True)
        listed.add_column(overflow="fold")
        for mark, text in notes:
            listed.add_row(Text(mark or "-"), Text(text))
        console.print(listed)
    console.print()


def _section(table: Table, column: Column, letters: cell_text.Letters) -> Grid:
    cells = [cell for cell in table.cells if (cell.dataset, cell.metric) == column]
    rows = [cell_text.texts(cell, column.metric, letters) for cell in cells]
    names = [name for name in rows[0] if any(row[name] for row in rows)]
    grid = Grid(
        box=box.SIMPLE_HEAD,
        title=cell_text.heading(column, table.paper),
        title_justify="left",
        title_style="bold",
        padding=(0, 2, 0, 0),
        pad_edge=False,
    )
    grid.add_column("network", no_wrap=True)
    for name in names:
        wide = name.endswith("verdict")
        grid.add_column(name, justify="left" if wide else "right", no_wrap=not wide, overflow="fold")
    for cell, row in zip(cells, rows, strict=True):
        style = STYLES.get(cell_text.verdict(cell).partition(",")[0], "dim")
        texts = (Text(row[name], style="" if name in ("paper", "ours", "difference") else style) for name in names)
        grid.add_row(Text(cell.model), *texts)
    return grid
