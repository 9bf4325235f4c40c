"""The paper's tables with our results in them, as the paper lays them out."""

from dataclasses import dataclass, replace
from typing import NamedTuple

from pipeline.comparison.cells import Cell, Comparison, cell_of
from pipeline.publication.claims import Claim, Metric
from pipeline.publication.paper import Caveat, Paper


class Column(NamedTuple):
    """What one column of a paper's table holds."""

    dataset: str
    metric: Metric


@dataclass(frozen=True)
class Table:
    """One table of the paper with our results beside it."""

    paper: Paper
    name: str
    """Key of `Paper.tables`: 4, figure-4, text."""
    cells: tuple[Cell, ...]
    """Row by row as the paper prints them; places that it leaves empty are cells too."""

    @property
    def title(self) -> str:
        return self.paper.tables[self.name]

    @property
    def stem(self) -> str:
        """Name of the table's files, without a suffix: table-4, figure-4, text."""
        return f"table-{self.name}" if self.name.isdigit() else self.name

    @property
    def models(self) -> tuple[str, ...]:
        """The rows, in the paper's order."""
        return tuple(dict.fromkeys(cell.model for cell in self.cells))

    @property
    def columns(self) -> tuple[Column, ...]:
        """The columns, in the paper's order."""
        return tuple(dict.fromkeys(Column(cell.dataset, cell.metric) for cell in self.cells))

    @property
    def caveats(self) -> tuple[Caveat, ...]:
        """The footnotes that its cells refer to, by number."""
        used = {number for cell in self.cells for number in cell.caveats}
        return tuple(caveat for caveat in self.paper.caveats if caveat.number in used)

    def cell(self, model: str, column: Column) -> Cell | None:
        """None where the table has no such place."""
        wanted = (model, *column)
        return next((cell for cell in self.cells if (cell.model, cell.dataset, cell.metric) == wanted), None)


def table(name: str, of: Comparison) -> Table:
    """Table `name` (4, table-4, figure-4, text) with the finished runs in it.

    Raises UserError for a table that the paper does not have.
    """
    name = of.paper.table_name(name)
    claims = {(claim.model, Column(claim.dataset, claim.metric)): claim for claim in of.paper.claims_of(name)}
    cells = []
    for model in dict.fromkeys(model for model, _ in claims):
        for column in dict.fromkeys(column for _, column in claims):
            if claim := claims.get((model, column)):
                cells.append(cell_of(claim, of))
            elif name not in ("9", "text"):  # lists of single numbers; the others are rectangles with dashes
                alike = [other for (_, its), other in claims.items() if its == column]
                cells.append(_dash(name, model, column, alike, of))
    return Table(of.paper, name, tuple(cells))


def _dash(name: str, model: str, column: Column, claims: list[Claim], of: Comparison) -> Cell:
    """A place that the paper leaves empty: our runs are shown, with their deviations, and not judged.

    These are from the protocol of a claim of the same column, with dropout or without as the network.
    """
    for claim in claims:
        if claim.kind == "runnable" and claim.model.endswith("-dropout") == model.endswith("-dropout"):
            cell = cell_of(replace(claim, model=model), of)
            return replace(cell, kind="unpublished", claim=None, judgement=None, verdict=None, margin=None, caveats=())
    return Cell(name, column.dataset, model, column.metric, "unpublished", None)
