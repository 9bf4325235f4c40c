"""report: models/*/, evaluations/*/ and the published claims -> results/report.html, one page for all of it."""

from pathlib import Path

from pipeline.comparison.results import load_results
from pipeline.comparison.tables import table
from pipeline.errors import run_stage
from pipeline.params import load
from pipeline.report.page import render
from pipeline.report.runs import load_finished


def main() -> None:
    """Write the page for the tables and runs of params.yaml; runs that are not finished are listed with their cost."""
    plan = load()
    results = [result for result in load_results(Path()) if result.run in plan.runs]
    tables = [table(plan, name, results) for name in plan.tables]
    to = Path("results/report.html")
    to.parent.mkdir(exist_ok=True)
    to.write_text(render(plan, tables, load_finished(Path(), results)), encoding="utf-8")


if __name__ == "__main__":
    run_stage(main)
