"""Formats of a comparison: each turns tables into text, the same text for the same tables."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from pipeline.atomic_write import new_file

if TYPE_CHECKING:
    from pipeline.comparison.tables import Table
    from pipeline.publication.paper import Paper

Format = Literal["terminal", "markdown", "latex", "csv", "json", "html"]
FILES: dict[str, Format] = {".csv": "csv", ".md": "markdown"}
"""Suffix of the files under results/ -> format."""


def render(tables: "Sequence[Table]", form: Format, paper: "Paper", width: int = 100) -> str:
    """The tables in a format, ending with a newline. `width` is the terminal's, in columns; the others ignore it."""
    from pipeline.comparison.formats import documents, tabular, terminal

    if form == "terminal":
        return terminal.render(tables, width)
    if form == "csv":
        return tabular.render_csv(tables)
    return tabular.render_json(tables) if form == "json" else documents.render(tables, form, paper)


def write_table(written: "Table", folder: Path) -> None:
    """Write table-4.csv and .md into `folder`, the same bytes for the same table."""
    for suffix, form in FILES.items():
        new_file(folder / f"{written.stem}{suffix}", render([written], form, written.paper).encode("utf-8"))
