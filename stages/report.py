"""report: models/*/, evaluations/*/ and the published claims -> results/report.html, one page for all of it."""

from pathlib import Path

from pipeline.atomic_write import new_file
from pipeline.comparison.cells import Comparison
from pipeline.comparison.results import planned_results
from pipeline.publication.wide_resnet import PAPER
from pipeline.report.page import render
from pipeline.runner.attempts import run_stage
from pipeline.runner.params_file import load


def main() -> None:
    """Write the page for the tables and runs of params.yaml; runs that are not finished are listed with their cost."""
    plan = load()
    of = Comparison(PAPER, plan, planned_results(plan, Path()))
    new_file(Path("results/report.html"), render(of, Path()).encode())


if __name__ == "__main__":
    run_stage(main)
