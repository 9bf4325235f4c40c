"""What one run says about the paper, as tags to filter by and as a note to read."""

from collections.abc import Sequence

from pipeline.comparison.cells import Cell, Comparison, cell_of
from pipeline.comparison.formats.cell_text import MEANINGS, difference, ours, published, verdict
from pipeline.publication.claims import Claim, canonical
from pipeline.publication.paper import Paper

NO_CLAIM = "no claim"


def claims_for(network: str, dataset: str, paper: Paper) -> list[Claim]:
    """The paper's claims that a training of this network on this dataset answers, in the paper's order."""
    wanted = "runnable", canonical(network), dataset
    return [claim for claim in paper.claims if (claim.kind, claim.network, claim.dataset) == wanted]


def table_tag(claims: Sequence[Claim]) -> str:
    """The tables of these claims: `4 5`. `no claim` when the paper prints no number for the run."""
    return " ".join(dict.fromkeys(claim.table for claim in claims)) or NO_CLAIM


def judged(run_id: str, claims: Sequence[Claim], of: Comparison) -> tuple[str, str]:
    """A run's verdict tag and its note in Markdown.

    The tag names each verdict once: a run answers the same question for several tables, and seldom differently.
    """
    if not claims:
        return NO_CLAIM, "The paper prints no number for this network on this dataset."
    words, parts, deviations = [], [], []
    for cell in (cell_of(claim, of) for claim in claims):
        left_out = next((excluded.reason for excluded in cell.excluded if excluded.run == run_id), None)
        words.append(f"left out ({left_out})" if left_out else str(cell.verdict))
        parts += (
            [_sentence(cell, of.paper) + (f" This run is left out: {left_out}." if left_out else "")]
            if cell.ours
            else []
        )
        deviations += [f"- {d} ({d.reason})" for d in cell.deviations] if run_id in cell.runs else []
    if deviations:
        parts.append("\n".join(["Differs from the paper's protocol in:", *dict.fromkeys(deviations)]))
    return ", ".join(dict.fromkeys(words)), "\n\n".join(parts)


def _sentence(cell: Cell, paper: Paper) -> str:
    table, dataset, metric = paper.tables[cell.table], paper.datasets[cell.dataset], paper.metrics[cell.metric]
    where = f"{table.partition(':')[0]}, {cell.model} on {dataset}, {metric}"
    numbers = f"the paper {published(cell)}, ours {ours(cell)}, difference {difference(cell)}"
    meaning = MEANINGS[str(cell.verdict)].partition("; the letters")[0]  # there are none in a note
    return f"**{verdict(cell)}** - {where}: {numbers}. {meaning[0].upper()}{meaning[1:]}."
