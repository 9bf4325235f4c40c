"""results/report.html: the paper's tables, our results and where each number comes from, as one page."""

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pipeline.comparison.cells import Cell, Comparison, runs_wanted
from pipeline.comparison.formats import cell_text, html
from pipeline.comparison.orderings import SEEDS, judge_ordering
from pipeline.comparison.statistical_power import Outlook, of_claim
from pipeline.comparison.statistics import Verdict
from pipeline.comparison.tables import Table
from pipeline.params import Plan
from pipeline.publication.paper import Paper
from pipeline.report import figures
from pipeline.report.finished_runs import Finished
from pipeline.report.points import our_points, published_points

FOLDER = Path(__file__).parent


def render(of: Comparison, tables: Sequence[Table], finished: Sequence[Finished]) -> str:
    """The page for `tables` of a comparison and for its runs, with all that is told of them."""
    paper, plan = of.paper, of.plan
    trained = [
        cell.dataset
        for table in tables
        for cell in table.cells
        if cell.metric == "top1_error" and cell.claim and paper.protocol_of(cell.claim)
    ]
    orderings = [
        judge_ordering(ordering, of)
        for ordering in paper.orderings
        if {claim.table for pair in ordering.pairs for claim in pair} <= set(plan.tables)
    ]
    text = (
        html.environment(FOLDER)
        .get_template("report.html.jinja")
        .render(
            paper=paper,
            headline=_headline(tables, finished),
            tables=[html.section(table, _link) for table in tables],
            curves=_curves(finished, paper),
            scatters=[_scatter(dataset, of, finished) for dataset in dict.fromkeys(trained)],
            waiting=_waiting(tables, of),
            orderings=orderings,
            seeds=SEEDS,
            unfinished=[run for run in plan.runs if run not in {each.result.run for each in finished}],
            runs=[(_slug("run", run.result.run), run, _groups(run, plan)) for run in finished],
        )
    )
    return text.strip() + "\n"


def _headline(tables: Sequence[Table], finished: Sequence[Finished]) -> list[str]:
    """What the page says in all, for somebody who reads no further."""
    lines = [f"{table.title.partition(':')[0]}: {cell_text.summary(table)}" for table in tables]
    cells = [cell for table in tables for cell in table.cells]
    judged = [cell for cell in cells if cell.judgement is not None and cell.judgement.look]
    count = f"{len(finished)} run{'' if len(finished) == 1 else 's'} finished."
    if judged:
        said = "1 number of the paper is" if len(judged) == 1 else f"{len(judged)} numbers of the paper are"
        return [f"{count} {said} judged by runs of the paper's own protocol.", *lines]
    verdict = "No number of the paper is judged yet"
    if any(cell.verdict is Verdict.NOT_COMPARABLE for cell in cells):
        verdict += ": our runs differ materially from the paper's protocol, so that their errors say nothing about it"
    return [f"{count} {verdict}.", *lines]


def _waiting(tables: Sequence[Table], of: Comparison) -> list[tuple[Cell, int, Outlook]]:
    """Each claim that is not settled, with the seeds of its next look and that look's operating characteristics."""
    rows = []
    for cell in (cell for table in tables for cell in table.cells):
        wanted = runs_wanted(cell, of.paper)
        seeds = (wanted or 0) + (cell.judgement.now.n if cell.judgement else 0)
        if wanted and cell.claim and (outlook := of_claim(cell.claim, of.plan, seeds, of.paper)):
            rows.append((cell, seeds, outlook))
    return rows


def _slug(*words_of_it: str) -> str:
    return re.sub(r"[^a-z0-9]+", "-", "-".join(words_of_it).lower()).strip("-")


def _link(cell: Cell) -> str:
    """Where a verdict leads to: the first run behind it."""
    runs = [*cell.runs, *(excluded.run for excluded in cell.excluded)] if cell.ours else []
    return _slug("run", runs[0]) if runs else ""


def _curves(finished: Sequence[Finished], paper: Paper) -> list[dict[str, Any]]:
    groups: dict[tuple[str, str, str], list[Finished]] = {}
    for run in finished:
        groups.setdefault((run.result.record.dataset, run.result.network, run.protocol), []).append(run)
    return [
        {
            "title": f"{network} on {paper.datasets.get(dataset, dataset)} by protocol {protocol}",
            "svg": figures.curves(_slug("curves", dataset, network, protocol), runs),
            "runs": runs,
        }
        for (dataset, network, protocol), runs in groups.items()
    ]


def _scatter(dataset: str, of: Comparison, finished: Sequence[Finished]) -> dict[str, Any]:
    points = [*published_points(dataset, of.paper), *our_points(dataset, of, finished)]
    name = of.paper.datasets[dataset]
    return {
        "id": _slug("figures", dataset),
        "dataset": name,
        "size": figures.scatter(_slug("size", dataset), name, "parameters", points),
        "compute": figures.scatter(_slug("compute", dataset), name, "multiply_adds", points),
        "uncounted": sum(point.multiply_adds is None for point in points),
        "points": points,
    }


def _groups(run: Finished, plan: Plan) -> dict[str, list[tuple[str, str]]]:
    """Where a run's number comes from. Everything of run.json is shown, so that nothing new in it is lost here."""
    record, dataset = run.record, plan.datasets.get(run.result.record.dataset)
    digests = dataset.digests if dataset else None
    pinned = _flat(dict(digests) if digests else {"digests": "not pinned"})
    return {
        "Run": [("counted from", run.result.origin), *_flat({k: v for k, v in record.items() if k not in _GROUPS})],
        f"Protocol {run.protocol}": _flat(record["protocol"]),
        "Device": _flat({"device": record["device"], "devices": record.get("devices", [])}),
        "Versions": _flat(record["versions"]),
        "Data, sha256 of images and labels as params.yaml pins it": pinned,
        "Files, sha256": list(run.digests.items()),
    }


_GROUPS = ("protocol", "device", "devices", "versions")


def _flat(value: Any, prefix: str = "") -> list[tuple[str, str]]:
    """Nested mappings and lists as (dotted name, text)."""
    if isinstance(value, dict):
        return [pair for key, inner in sorted(value.items()) for pair in _flat(inner, f"{prefix}{key}.")]
    if isinstance(value, list) and any(isinstance(inner, dict) for inner in value):
        return [pair for i, inner in enumerate(value, 1) for pair in _flat(inner, f"{prefix}{i}.")]
    text = ", ".join(map(str, value)) or "none" if isinstance(value, list) else str(value)
    return [(prefix.rstrip(".").replace("_", " "), text)]
