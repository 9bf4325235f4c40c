"""A table laid out as the paper prints it: one row a network, and for each of its columns ours beside the published."""

from dataclasses import dataclass

from pipeline.comparison.cells import Cell
from pipeline.comparison.formats import cell_text
from pipeline.comparison.tables import Table
from pipeline.publication.claims import Metric

JUDGED = ("top1_error", "top5_error", "map")


@dataclass(frozen=True)
class Place:
    """A column of the paper in one row, as the columns that stand for it here."""

    cell: Cell | None
    """None where the paper's table has no such place."""
    texts: dict[str, str]
    """Name of each column -> its text, not yet escaped for any format."""


Group = tuple[str, list[str]]
"""Heading of one of the paper's columns, and the names of those that stand for it."""
Row = tuple[str, list[Place]]
"""The network's name, and a place for each group."""


def grid(table: Table, letters: cell_text.Letters) -> tuple[list[Group], list[Row]]:
    """Lay a table out."""
    columns = table.columns
    groups = [(cell_text.heading(each, table.paper), list(_texts(None, each.metric, letters))) for each in columns]
    rows = []
    for model in table.models:
        cells = [(column, table.cell(model, column)) for column in columns]
        rows.append((model, [Place(cell, _texts(cell, column.metric, letters)) for column, cell in cells]))
    return groups, rows


def texts(row: Row) -> list[str]:
    """Of a row, its name first."""
    model, places = row
    return [model, *(text for place in places for text in place.texts.values())]


def _texts(cell: Cell | None, metric: Metric, letters: cell_text.Letters) -> dict[str, str]:
    published, ours, difference, said, marks = [""] * 5
    if cell is not None:
        published, ours, difference = cell_text.published(cell), cell_text.ours(cell), cell_text.difference(cell)
        said, marks = cell_text.verdict(cell), cell_text.marks(cell, letters)
    judged, noted = f"{said} {marks}".strip(), f"{published} {marks}".strip()
    if metric in JUDGED:
        return {"paper": published, "ours": ours, "difference": difference, "verdict": judged}
    if metric == "batch32_ms":
        return {"paper": published, "ours, verdict": f"{ours} {judged}".strip()}
    if metric == "params_millions":
        return {"paper": noted, "ours, exact": ours if said in ("", "same count", "not counted") else judged}
    return {"paper": noted}
