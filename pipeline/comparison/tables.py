"""The paper's tables with our results in them, as the paper lays them out."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, get_args

from pipeline.comparison.cells import Cell, Comparison, cell_of, unpublished_cell, unpublished_cell_with_runs
from pipeline.comparison.statistics import Verdict
from pipeline.publication.caveats import Caveat
from pipeline.publication.claims import Claim, Kind, Metric, Statistic
from pipeline.publication.paper import Paper

if TYPE_CHECKING:
    import pandera.pandas


@dataclass(frozen=True)
class Column:
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

    def cell(self, model: str, column: Column) -> Cell:
        """Raises KeyError where the table has no such place."""
        for cell in self.cells:
            if (cell.model, cell.dataset, cell.metric) == (model, column.dataset, column.metric):
                return cell
        raise KeyError((model, column))


def table(name: str, of: Comparison) -> Table:
    """Table `name` (4, table-4, figure-4, text) with the finished runs in it.

    Raises UserError for a table that the paper does not have.
    """
    name = of.paper.table_name(name)
    claims = {(claim.model, Column(claim.dataset, claim.metric)): claim for claim in of.paper.claims_of(name)}
    columns = tuple(dict.fromkeys(column for _, column in claims))
    cells = []
    for model in dict.fromkeys(model for model, _ in claims):
        for column in columns:
            if claim := claims.get((model, column)):
                cells.append(cell_of(claim, of))
            elif name not in ("9", "text"):  # lists of single numbers; the others are rectangles with dashes
                cells.append(_dash(name, model, column, claims, of))
    return Table(of.paper, name, tuple(cells))


def _dash(name: str, model: str, column: Column, claims: dict[tuple[str, Column], Claim], of: Comparison) -> Cell:
    for (other, its_column), claim in claims.items():
        if its_column == column and claim.kind == "runnable" and _has_dropout(other) == _has_dropout(model):
            return unpublished_cell_with_runs(claim, model, of)
    return unpublished_cell(name, column.dataset, model, column.metric)


def _has_dropout(model: str) -> bool:
    return model.endswith("-dropout")


def results_schema(paper: Paper) -> "pandera.pandas.DataFrameSchema":
    """Columns of a results table as results/table-N.csv holds them: exactly these, in this order, all text.

    Errors, differences, intervals and margins are in percent and points with three decimals, counts whole; what does
    not exist is empty. `published` is as printed, or a dash.
    """
    import pandera.pandas as pa

    def text(pattern: str) -> pa.Column:
        return pa.Column(str, pa.Check.str_matches(f"^(?:{pattern})$"))

    def words(*allowed: str) -> pa.Column:
        return pa.Column(str, pa.Check.isin(allowed))

    number, signed, whole = r"|[0-9]+\.[0-9]{3}", r"|[+-][0-9]+\.[0-9]{3}", "[0-9]*"
    return pa.DataFrameSchema(
        {
            "table": words(*paper.tables),
            "network": text(".+"),
            "dataset": text("[a-z0-9]+"),
            "metric": words(*get_args(Metric)),
            "kind": words(*get_args(Kind), "unpublished"),
            "published": text(r"-|[0-9]+(\.[0-9]+)?"),
            "statistic": words("", *get_args(Statistic)),
            "n": text(whole),
            "mean": text(number),
            "median": text(number),
            "min": text(number),
            "max": text(number),
            "sd": text(number),
            "count": text(whole),
            "time": text(number),
            "difference": text(signed),
            "low": text(signed),
            "high": text(signed),
            "margin": text(number),
            "verdict": words("", *Verdict),
            "look": text(whole),
            "next_look": text(whole),
            "deviations": pa.Column(str),
            "caveats": text("|[0-9]+( [0-9]+)*"),
            "runs": pa.Column(str),
            "origins": pa.Column(str),
            "excluded": pa.Column(str),
        },
        strict=True,
        ordered=True,
        unique=["table", "network", "dataset", "metric"],
    )
