"""Formats of a comparison: each turns tables into text, the same text for the same tables."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Literal, get_args

from pipeline.comparison.tables import Table
from pipeline.publish import new_file

Format = Literal["terminal", "markdown", "latex", "csv", "json", "html"]
FORMATS: tuple[Format, ...] = get_args(Format)
FILES: dict[str, Format] = {".csv": "csv", ".md": "markdown"}
"""Suffix of the files under results/ -> format."""


def render(tables: Sequence[Table], form: Format, width: int = 100) -> str:
    """The tables in a format, ending with a newline. `width` is the terminal's, in columns; the others ignore it."""
    return _renderer(form, width)(tables)


def _renderer(form: Format, width: int) -> Callable[[Sequence[Table]], str]:
    # jinja2, rich and pandas are imported only by those who print with them
    if form == "terminal":
        from pipeline.comparison.formats import terminal

        return lambda tables: terminal.render(tables, width)
    if form == "markdown":
        from pipeline.comparison.formats import markdown

        return markdown.render
    if form == "html":
        from pipeline.comparison.formats import html

        return html.render
    if form in ("csv", "json"):
        from pipeline.comparison.formats import tabular

        return tabular.render_csv if form == "csv" else tabular.render_json
    from pipeline.comparison.formats import latex

    return latex.render


def write_table(written: Table, folder: Path) -> tuple[Path, ...]:
    """Write table-4.csv and .md into `folder`, the same bytes for the same table, and return their paths."""
    paths = []
    for suffix, form in FILES.items():
        path = folder / f"{written.stem}{suffix}"
        paths.append(path)
        new_file(path, render([written], form).encode("utf-8"))
    return tuple(paths)
