"""A table for the terminal of rows that are dataclasses: a column for each field."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    from rich.table import Table


def row_table(title: str, rows: Sequence[Any], *columns: str) -> "Table":
    """A table of `rows`; of these fields only, where `columns` are given."""
    from dataclasses import fields

    from rich.table import Table

    if not rows:
        return Table(title=title, title_justify="left")
    names = columns or tuple(field.name for field in fields(rows[0]))
    cells = {name: [_cell(getattr(row, name)) for row in rows] for name in names}
    for name in names:  # what all rows have in common is said once, which leaves room for the rest
        if len(rows) > 1 and isinstance(getattr(rows[0], name), str | int) and len(set(cells[name])) == 1:
            title += f"; {name.replace('_', ' ')} {cells.pop(name)[0]}"
    table = Table(title=title, title_justify="left")
    for name, column in cells.items():
        # Of a narrow terminal the headings may fold, the cells never.
        justify: Literal["left", "right"] = "left" if isinstance(getattr(rows[0], name), str) else "right"
        table.add_column(name.replace("_", " ").replace(" per ", "/"), justify=justify, min_width=max(map(len, column)))
    for row in zip(*cells.values(), strict=True):
        table.add_row(*row)
    return table


def _cell(value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else ""
    if isinstance(value, float):
        return f"{value:,.0f}" if value >= 100 else f"{value:,.2f}"
    return "" if value is None else str(value)
