"""What one run says about the paper, as tags to filter by and as a note to read."""

from collections.abc import Sequence

from pipeline.comparison.cells import Cell, cell_of
from pipeline.comparison.formats.cell_text import DATASETS, MEANINGS, METRICS, difference, ours, published, verdict
from pipeline.comparison.results import Result
from pipeline.params import Plan
from pipeline.publication.claims import Claim, canonical, load_claims
from pipeline.publication.paper import TITLES

NO_CLAIM = "no claim"


def claims_for(network: str, dataset: str) -> list[Claim]:
    """The paper's claims that a training of this network on this dataset answers, in the paper's order."""
    return [
        claim
        for claim in load_claims()
        if claim.kind == "runnable" and (claim.network, claim.dataset) == (canonical(network), dataset)
    ]


def table_tag(claims: Sequence[Claim]) -> str:
    """The tables of these claims: `4 5`. `no claim` when the paper prints no number for the run."""
    return " ".join(dict.fromkeys(claim.table for claim in claims)) or NO_CLAIM


def judged(run_id: str, claims: Sequence[Claim], plan: Plan, results: Sequence[Result]) -> tuple[str, str]:
    """A run's verdict tag and its note in Markdown, from all finished runs of the plan.

    The tag names each verdict once: a run answers the same question for several tables, and seldom differently.
    """
    cells = [cell_of(claim, plan, results) for claim in claims]
    words = [_word(cell, run_id) for cell in cells]
    parts = [_sentence(cell, run_id) for cell in cells if cell.ours is not None]
    if not claims:
        parts = ["The paper prints no number for this network on this dataset."]
    deviations = dict.fromkeys(d for cell in cells if run_id in cell.runs for d in cell.deviations)
    if deviations:
        parts.append("Differs from the paper's protocol in:\n" + "\n".join(f"- {d} ({d.reason})" for d in deviations))
    return ", ".join(dict.fromkeys(words)) or NO_CLAIM, "\n\n".join(parts)


def _word(cell: Cell, run_id: str) -> str:
    left_out = {excluded.run: excluded.reason for excluded in cell.excluded}
    return f"left out ({left_out[run_id]})" if run_id in left_out else str(cell.verdict)


def _sentence(cell: Cell, run_id: str) -> str:
    where = f"{TITLES[cell.table].partition(':')[0]}, {cell.model} on {DATASETS[cell.dataset]}, {METRICS[cell.metric]}"
    numbers = f"the paper {published(cell)}, ours {ours(cell)}, difference {difference(cell)}"
    meaning = MEANINGS[str(cell.verdict)]
    sentence = f"**{verdict(cell)}** - {where}: {numbers}. {meaning[0].upper()}{meaning[1:]}."
    for excluded in cell.excluded:
        if excluded.run == run_id:
            sentence += f" This run is left out: {excluded.reason}."
    return sentence.replace("; the letters say in what", "")
