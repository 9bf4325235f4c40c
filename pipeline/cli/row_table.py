"""A table for the terminal of rows that are dataclasses: a column for each field."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rich.table import Table


def row_table(title: str, rows: Sequence[Any], *columns: str) -> "Table":
    """A table of `rows`; of these fields only, where `columns` are given."""
    from dataclasses import fields

    from rich.table import Table

    table = Table(title=title, title_justify="left")
    if not rows:
        return table
    names = columns or tuple(field.name for field in fields(rows[0]))
    for name in names:
        text = isinstance(getattr(rows[0], name), str)
        table.add_column(
            name.replace("_", " ").replace(" per ", "/"),
            justify="left" if text else "right",
            overflow="fold",
            no_wrap=not text,
        )
    for row in rows:
        table.add_row(*(_cell(getattr(row, name)) for name in names))
    return table


def _cell(value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else ""
    if isinstance(value, float):
        return f"{value:,.0f}" if value >= 100 else f"{value:,.2f}"
    return "" if value is None else str(value)
