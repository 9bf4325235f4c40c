"""results/report.html: the paper's tables, our results and where each number comes from, as one page."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pipeline.artifacts import DIGESTS, HISTORY, MODELS, Digests, read_history
from pipeline.comparison.cells import Cell, Comparison, runs_wanted
from pipeline.comparison.formats import environment
from pipeline.comparison.formats.cell_text import section
from pipeline.comparison.orderings import SEEDS, judge_ordering
from pipeline.comparison.statistical_power import Outlook, of_claim
from pipeline.comparison.tables import table
from pipeline.comparison.verdict_rule import Verdict
from pipeline.params import Plan
from pipeline.report import figures
from pipeline.report.figures import Finished

FOLDER = Path(__file__).parent


def render(of: Comparison, root: Path) -> str:
    """The page for the plan's tables and the runs that count, with all that the repository at `root` tells of them.

    Raises UserError that names a file of a run that is missing or broken.
    """
    paper, plan, finished = of.paper, of.plan, []
    for result in of.results:
        folder = MODELS / result.run if result.commit is None else result.folder
        history = read_history(root / folder / HISTORY, f"wrn-pipe repro {result.run}")
        finished.append(Finished(result, history, Digests.read(root / result.folder / DIGESTS).files))
    tables = [table(name, of) for name in plan.tables]
    cells = [cell for each in tables for cell in each.cells]
    trained = dict.fromkeys(
        cell.dataset for cell in cells if cell.metric == "top1_error" and cell.claim and paper.protocol_of(cell.claim)
    )
    orderings = [
        judge_ordering(ordering, of)
        for ordering in paper.orderings
        if {claim.table for pair in ordering.pairs for claim in pair} <= set(plan.tables)
    ]
    alike: dict[tuple[str, str, str], list[Finished]] = {}
    for run in finished:
        record = run.result.record
        alike.setdefault((record.dataset, run.result.network, record.protocol_name), []).append(run)
    page = environment("html", FOLDER).get_template("report.html.jinja")
    text = page.render(
        paper=paper,
        figures=figures,
        judged=sum(cell.judgement is not None and cell.judgement.look is not None for cell in cells),
        not_comparable=any(cell.verdict is Verdict.NOT_COMPARABLE for cell in cells),
        tables=[section(each) for each in tables],
        curves=alike,
        points={name: figures.points_of(name, of) for name in trained},
        waiting=_waiting(cells, of),
        orderings=orderings,
        seeds=SEEDS,
        unfinished=[run for run in plan.runs if run not in {each.result.run for each in finished}],
        runs=[(run, _groups(run, plan)) for run in finished],
    )
    return text.strip() + "\n"


def _waiting(cells: Sequence[Cell], of: Comparison) -> list[tuple[Cell, int, Outlook]]:
    """Each claim that is not settled, with the seeds of its next look and that look's operating characteristics."""
    rows = []
    for cell in cells:
        wanted = runs_wanted(cell, of.paper)
        seeds = (wanted or 0) + (cell.judgement.now.n if cell.judgement else 0)
        if wanted and cell.claim and (outlook := of_claim(cell.claim, of.plan, seeds, of.paper)):
            rows.append((cell, seeds, outlook))
    return rows


def _groups(run: Finished, plan: Plan) -> dict[str, list[tuple[str, str]]]:
    """Where a run's number comes from. Everything of run.json is shown, so that nothing new in it is lost here."""
    record, dataset = run.result.record.model_dump(mode="json"), plan.datasets.get(run.result.record.dataset)
    protocol, device, devices, versions = (record.pop(key) for key in ("protocol", "device", "devices", "versions"))
    pinned = dict(dataset.digests) if dataset and dataset.digests else {"digests": "not pinned"}
    return {
        "Run": [("counted from", run.result.origin), *_flat(record)],
        f"Protocol {run.result.record.protocol_name}": _flat(protocol),
        "Device": _flat({"device": device, "devices": devices}),
        "Versions": _flat(versions),
        "Data, sha256 of images and labels as params.yaml pins it": _flat(pinned),
        "Files, sha256": list(run.digests.items()),
    }


def _flat(value: Any, prefix: str = "") -> list[tuple[str, str]]:
    """Nested mappings and lists as (dotted name, text)."""
    if isinstance(value, dict):
        return [pair for key, inner in sorted(value.items()) for pair in _flat(inner, f"{prefix}{key}.")]
    if isinstance(value, list) and any(isinstance(inner, dict) for inner in value):
        return [pair for i, inner in enumerate(value, 1) for pair in _flat(inner, f"{prefix}{i}.")]
    text = ", ".join(map(str, value)) or "none" if isinstance(value, list) else str(value)
    return [(prefix.rstrip(".").replace("_", " "), text)]
