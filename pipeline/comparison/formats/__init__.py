"""Formats of a comparison: each turns tables into text, the same text for the same tables.

A terminal's is by rich. By a template each: GitHub's Markdown, a LaTeX document that compiles as it is, and one HTML
page that needs nothing beside it, legible in light and dark, by eye, ear and keyboard.
"""

import io
import re
import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jinja2
from rich import box
from rich.console import Console
from rich.table import Table as Grid
from rich.text import Text

from pipeline.comparison.formats.cell_text import section
from pipeline.comparison.formats.tabular import render_csv, render_json
from pipeline.comparison.tables import Table
from pipeline.publication.paper import Paper

FOLDER = Path(__file__).parent
ESCAPES = {
    "markdown": str.maketrans({"\\": r"\\", "|": r"\|", "*": r"\*", "<": "&lt;"}),
    "latex": str.maketrans(
        {
            **{character: f"\\{character}" for character in "&%$#_{}"},
            **{"\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}"},
            **{"±": r"$\pm$", "<": "$<$", ">": "$>$", '"': "''"},
            # an opening bracket after the end of a row would be read as its optional argument
            **{"[": "{[}", "]": "{]}"},
        }
    ),
}
"""Of what is special in a format, what stands for it in a text. HTML has jinja2's own."""
_COLOURS = {
    **dict.fromkeys(("reproduced", "same count", "same order"), "green"),
    **dict.fromkeys(("worse", "other count", "other order"), "red"),
    **dict.fromkeys(("inconclusive", "not comparable"), "yellow"),
    "better": "cyan",
}
"""First words of a verdict -> colour in a terminal; others are dim."""


def render(tables: Sequence[Table], form: str, paper: Paper, width: int = 100, *, colour: bool = False) -> str:
    """The tables, ending with a newline. `width`, in columns, and `colour`, by ANSI codes, are for a terminal alone."""
    if form == "terminal":
        return _in_terminal(tables, width, colour)
    if form == "csv":
        return render_csv(tables)
    if form == "json":
        return render_json(tables)
    page = environment(form).get_template(f"{form}.jinja")
    return page.render(paper=paper, tables=[section(table) for table in tables]).rstrip("\n") + "\n"


def environment(form: str, *folders: Path) -> jinja2.Environment:
    """Templates of `folders`, then those here: comparison.css and the macro `comparison` of table.html.jinja."""
    made = jinja2.Environment(
        loader=jinja2.FileSystemLoader([*folders, FOLDER]),
        undefined=jinja2.StrictUndefined,
        autoescape=form == "html",
        trim_blocks=True,
        lstrip_blocks=True,
    )
    if form == "latex":  # which is full of braces
        made = made.overlay("<%", "%>", "<<", ">>")
    if form in ESCAPES:
        made.finalize = lambda value: str(value).translate(ESCAPES[form])
    return made


def wrapped(text: str, width: int) -> str:
    """For a terminal: a line that is too long goes on below its first bar, which is not printed."""
    lines: list[str] = []
    for line in text.strip().splitlines():
        start, _, rest = line.partition("|")
        further = " " * len(start)
        broken = textwrap.wrap(rest, width, initial_indent=start, subsequent_indent=further, break_on_hyphens=False)
        lines += broken or ([""] if lines and lines[-1] else [])
    return "\n".join(lines) + "\n"


def _in_terminal(tables: Sequence[Table], width: int, colour: bool) -> str:
    """Text of at most `width` columns, without trailing blanks."""
    written = io.StringIO()
    console = Console(
        file=written,
        width=width,
        force_terminal=colour,
        color_system="standard" if colour else None,
        highlight=False,
        # Without this rich reads COLUMNS, TERM and NO_COLOR: the same tables must give the same text.
        _environ={},
    )
    for told in map(section, tables):
        console.print(Text(told["title"], style="bold"))
        console.print(Text(told["summary"]))
        # What is judged comes first; counts and timings are what the eye can skip.
        for column in sorted(told["columns"], key=lambda column: "difference" not in column["names"]):
            console.print()
            console.print(_grid(column))
        for title, notes in told["notes"]:
            console.print()
            console.print(Text(title, style="bold"))
            listed = Grid.grid(padding=(0, 1, 0, 0))
            listed.add_column(no_wrap=True)
            listed.add_column(overflow="fold")
            for mark, text in notes:
                listed.add_row(Text(mark or "-"), Text(text))
            console.print(listed)
        console.print()
    text = "\n".join(line.rstrip() for line in written.getvalue().split("\n"))
    return re.sub("\n{3,}", "\n\n", text)


def _grid(column: dict[str, Any]) -> Grid:
    """One of the paper's columns, of which only those are printed here that have some text."""
    grid = Grid(
        box=box.SIMPLE_HEAD,
        title=column["heading"],
        title_justify="left",
        title_style="bold",
        padding=(0, 2, 0, 0),
        pad_edge=False,
    )
    grid.add_column("network", no_wrap=True)
    names = [name for name in column["names"] if any(texts[name] for texts in column["texts"].values())]
    for name in names:
        wide = name.endswith("verdict")
        grid.add_column(name, justify="left" if wide else "right", no_wrap=not wide, overflow="fold")
    for model, style in column["styles"].items():
        texts, colour = column["texts"][model], _COLOURS.get(style, "dim")
        shown = (Text(texts[name], style=colour if name == column["verdict"] else "") for name in names)
        grid.add_row(Text(model), *shown)
    return grid
