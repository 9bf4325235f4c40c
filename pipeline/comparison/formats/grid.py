"""A table laid out as the paper prints it: one row a network, and for each of its columns ours beside the published."""

from dataclasses import dataclass

from pipeline.comparison.cells import Cell
from pipeline.comparison.formats import cell_text
from pipeline.comparison.tables import Column, Table


@dataclass(frozen=True)
class Group:
    """The columns that stand for one column of the paper."""

    heading: str
    names: tuple[str, ...]


@dataclass(frozen=True)
class Grid:
    """Texts, not yet escaped for any format."""

    groups: tuple[Group, ...]
    rows: tuple[tuple[str, ...], ...]
    """The network's name, then the texts of each group."""
    cells: tuple[tuple[Cell | None, ...], ...]
    """Row by row, the cell behind each group's texts; None where the paper's table has no such place."""


def grid(table: Table, letters: cell_text.Letters) -> Grid:
    groups = tuple(Group(cell_text.heading(column, table.paper), _names(column)) for column in table.columns)
    rows, cells = [], []
    for model in table.models:
        found = tuple(_find(table, model, column) for column in table.columns)
        texts = [model]
        for column, cell in zip(table.columns, found, strict=True):
            texts.extend(_texts(cell, column, letters))
        rows.append(tuple(texts))
        cells.append(found)
    return Grid(groups, tuple(rows), tuple(cells))


def _find(table: Table, model: str, column: Column) -> Cell | None:
    found = [c for c in table.cells if (c.model, c.dataset, c.metric) == (model, column.dataset, column.metric)]
    return found[0] if found else None


def _names(column: Column) -> tuple[str, ...]:
    if column.metric == "params_millions":
        return ("paper", "ours, exact")
    if column.metric in ("top1_error", "top5_error", "map"):
        return ("paper", "ours", "difference", "verdict")
    if column.metric == "batch32_ms":
        return ("paper", "ours, verdict")
    return ("paper",)


def _texts(cell: Cell | None, column: Column, letters: cell_text.Letters) -> tuple[str, ...]:
    names = _names(column)
    if cell is None:
        return ("",) * len(names)
    marks = cell_text.marks(cell, letters)
    judged = f"{cell_text.verdict(cell)} {marks}".strip()
    if len(names) == 4:
        return (cell_text.published(cell), cell_text.ours(cell), cell_text.difference(cell), judged)
    note = f" {marks}" if marks else ""
    if column.metric == "batch32_ms":
        return (cell_text.published(cell), f"{cell_text.ours(cell)} {judged}".strip())
    if len(names) == 2:
        count = cell_text.ours(cell) if cell_text.verdict(cell) in ("same count", "not counted") else judged
        return (cell_text.published(cell) + note, count)
    return (cell_text.published(cell) + note,)
