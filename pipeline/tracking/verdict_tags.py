"""What one run says about the paper, as tags to filter by and as a note to read."""

from collections.abc import Sequence

from pipeline.comparison.cells import Cell, cell_of, spread_of
from pipeline.comparison.formats.cell_text import DATASETS, MEANINGS, METRICS, difference, ours, published, verdict
from pipeline.comparison.results import Result
from pipeline.params import Plan
from pipeline.publication.claims import Claim, canonical, load_claims
from pipeline.publication.paper import TITLES

NO_CLAIM = "no claim"


def claims_for(network: str, dataset: str) -> list[Claim]:
    """The paper's claims that a training of this network on this dataset answers, in the paper's order."""
    wanted = "runnable", canonical(network), dataset
    return [claim for claim in load_claims() if (claim.kind, claim.network, claim.dataset) == wanted]


def table_tag(claims: Sequence[Claim]) -> str:
    """The tables of these claims: `4 5`. `no claim` when the paper prints no number for the run."""
    return " ".join(dict.fromkeys(claim.table for claim in claims)) or NO_CLAIM


def judged(run_id: str, claims: Sequence[Claim], plan: Plan, results: Sequence[Result]) -> tuple[str, str]:
    """A run's verdict tag and its note in Markdown, from all finished runs of the plan.

    The tag names each verdict once: a run answers the same question for several tables, and seldom differently.
    """
    if not claims:
        return NO_CLAIM, "The paper prints no number for this network on this dataset."
    words, parts, deviations = [], [], []
    spread = spread_of(plan, results)
    for cell in (cell_of(claim, plan, results, spread) for claim in claims):
        left_out = next((excluded.reason for excluded in cell.excluded if excluded.run == run_id), None)
        words.append(f"left out ({left_out})" if left_out else str(cell.verdict))
        parts += [_sentence(cell) + (f" This run is left out: {left_out}." if left_out else "")] if cell.ours else []
        deviations += [f"- {d} ({d.reason})" for d in cell.deviations] if run_id in cell.runs else []
    if deviations:
        parts.append("\n".join(["Differs from the paper's protocol in:", *dict.fromkeys(deviations)]))
    return ", ".join(dict.fromkeys(words)), "\n\n".join(parts)


def _sentence(cell: Cell) -> str:
    where = f"{TITLES[cell.table].partition(':')[0]}, {cell.model} on {DATASETS[cell.dataset]}, {METRICS[cell.metric]}"
    numbers = f"the paper {published(cell)}, ours {ours(cell)}, difference {difference(cell)}"
    meaning = MEANINGS[str(cell.verdict)].partition("; the letters")[0]  # there are none in a note
    return f"**{verdict(cell)}** - {where}: {numbers}. {meaning[0].upper()}{meaning[1:]}."
