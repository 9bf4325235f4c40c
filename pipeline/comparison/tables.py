"""The paper's tables with our results in them, as the paper lays them out."""

import json
from dataclasses import dataclass, replace
from pathlib import Path

from pipeline.comparison.cells import Cell, Comparison, cell_of
from pipeline.comparison.deviations import Deviation
from pipeline.comparison.verdict_rule import Verdict
from pipeline.errors import UserError
from pipeline.publication.claims import Claim
from pipeline.publication.paper import Caveat, Paper


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
    def caveats(self) -> tuple[Caveat, ...]:
        """The footnotes that its cells refer to, by number."""
        used = {number for cell in self.cells for number in cell.caveats}
        return tuple(caveat for caveat in self.paper.caveats if caveat.number in used)


def table(name: str, of: Comparison) -> Table:
    """Table `name` (4, table-4, figure-4) with the finished runs in it. Raises UserError for one that is not there."""
    name = of.paper.table_name(name)
    claims = {(claim.model, claim.dataset, claim.metric): claim for claim in of.paper.chosen([name])}
    cells = []
    for model in dict.fromkeys(model for model, *_ in claims):
        for dataset, metric in dict.fromkeys(place[1:] for place in claims):
            if claim := claims.get((model, dataset, metric)):
                cells.append(cell_of(claim, of))
            elif name not in ("9", "text"):  # lists of single numbers; the others are rectangles with dashes
                column = [each for place, each in claims.items() if place[1:] == (dataset, metric)]
                cells.append(_dash(model, column, of))
    return Table(of.paper, name, tuple(cells))


def _dash(model: str, column: list[Claim], of: Comparison) -> Cell:
    """A place of a column that the paper leaves empty: our runs are shown, with their deviations, and not judged.

    These are from the protocol of a claim of the same column, with dropout or without as the network.
    """
    for claim in column:
        if claim.kind == "runnable" and claim.model.endswith("-dropout") == model.endswith("-dropout"):
            cell = cell_of(replace(claim, model=model), of)
            return replace(cell, kind="unpublished", claim=None, judgement=None, verdict=None, margin=None, caveats=())
    return Cell(column[0].table, column[0].dataset, model, column[0].metric, "unpublished", None)


def with_times(table: Table, path: Path) -> Table:
    """The table with the times of Figure 4 that `wrn-pipe bench figure-4 --json` wrote to `path`.

    Seconds do not carry over to another machine, so a time is judged by its order alone: "same order" where it stands
    to every other as the paper's does. Raises UserError for another file.
    """
    try:
        found = json.loads(path.read_bytes())
        ms = {str(timing["network"]): float(timing["ms"]["median"]) for timing in found["timings"]}
        device, precision = str(found["machine"]["name"]), str(found["precision"])
    except (OSError, ValueError, TypeError, KeyError) as error:
        why = error.strerror if isinstance(error, OSError) else f"not such a file: {error!r}"
        raise UserError(f"--timings {path}: {why}", f"make it with: wrn-pipe bench figure-4 --json > {path}") from None
    theirs = table.paper.hardware["device"]
    differs = [Deviation("device", theirs, device, False, "only the order of times carries over")]
    if precision != "fp32":
        differs.append(Deviation("precision", "fp32", precision, False, "another speed on most devices"))
    claims = [cell.claim for cell in table.cells if cell.claim and cell.metric == "batch32_ms"]
    times = {claim: ms[claim.network] for claim in claims if claim.network in ms}
    cells = list(table.cells)
    for place, cell in enumerate(cells):
        if cell.claim in times and len(times) > 1:
            printed, time = cell.claim.value, times[cell.claim]
            same = all((printed < other.value) == (time < its) for other, its in times.items())
            verdict = Verdict.SAME_ORDER if same else Verdict.OTHER_ORDER
            cells[place] = replace(cell, time=time, verdict=verdict, deviations=tuple(differs))
    return replace(table, cells=tuple(cells))
