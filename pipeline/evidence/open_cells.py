"""Which cells of the paper's tables wait for seeds, and what their next look costs."""

from collections.abc import Sequence
from dataclasses import dataclass

from pipeline.comparison.cells import Comparison, runs_wanted
from pipeline.comparison.statistics import Verdict
from pipeline.comparison.tables import table
from pipeline.comparison.training_cost import training_cost


@dataclass(frozen=True)
class OpenCell:
    """A number of the paper whose next look needs more seeds."""

    table: str
    network: str
    dataset: str
    printed: str
    seeds: int
    """That count already."""
    next_look: int
    """Seeds at which a verdict is given next."""
    cpu_hours: float
    """Of all seeds that are missing, on 2 CPU cores."""
    gpu_hours: float


def open_cells(of: Comparison, tables: Sequence[str]) -> list[OpenCell]:
    """Of these tables, the cheapest first; what two tables print is named once."""
    found: dict[tuple[str, str, str], OpenCell] = {}
    for name in tables:
        for cell in table(name, of).cells:
            recipe, missing = of.paper.protocol_of(cell.claim) if cell.claim else None, runs_wanted(cell, of.paper)
            if cell.claim is None or recipe is None or not missing:
                continue
            seeds = cell.ours.n if cell.ours and cell.verdict is Verdict.INCONCLUSIVE else 0
            images = of.paper.images(cell.dataset, "train")
            cost = training_cost(cell.claim.network, images, recipe.protocol) * missing
            key = (cell.claim.network, cell.dataset, recipe.name)
            found.setdefault(
                key,
                OpenCell(
                    *(cell.table, cell.model, cell.dataset, cell.claim.text, seeds, seeds + missing),
                    cpu_hours=cost.cpu_hours,
                    gpu_hours=cost.gpu_hours,
                ),
            )
    return sorted(found.values(), key=lambda cell: cell.cpu_hours)
