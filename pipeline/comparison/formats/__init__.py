"""Formats of a comparison: each turns tables into text, the same text for the same tables."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from pipeline.publish import new_file

if TYPE_CHECKING:
    from pipeline.comparison.tables import Table
    from pipeline.publication.paper import Paper

Format = Literal["terminal", "markdown", "latex", "csv", "json", "html"]
FILES: dict[str, Format] = {".csv": "csv", ".md": "markdown"}
"""Suffix of the files under results/ -> format."""


def render(tables: "Sequence[Table]", form: Format, paper: "Paper", width: int = 100) -> str:
    """The tables in a format, ending with a newline. `width` is the terminal's, in columns; the others ignore it."""
    # jinja2, rich and pandas are imported only by those who print with them
    if form == "terminal":
        from pipeline.comparison.formats import terminal

        return terminal.render(tables, width)
    if form == "markdown":
        from pipeline.comparison.formats import markdown

        return markdown.render(tables)
    if form == "html":
        from pipeline.comparison.formats import html

        return html.render(tables, paper)
    if form == "latex":
        from pipeline.comparison.formats import latex

        return latex.render(tables)
    from pipeline.comparison.formats import tabular

    return tabular.render_csv(tables, paper) if form == "csv" else tabular.render_json(tables)


def write_table(written: "Table", folder: Path) -> tuple[Path, ...]:
    """Write table-4.csv and .md into `folder`, the same bytes for the same table, and return their paths."""
    paths = []
    for suffix, form in FILES.items():
        path = folder / f"{written.stem}{suffix}"
        paths.append(path)
        new_file(path, render([written], form, written.paper).encode("utf-8"))
    return tuple(paths)
