"""tabulate: evaluations/*/ and the published claims -> results/table-<table>.{csv,md}."""

from pathlib import Path

from pipeline.atomic_write import new_file
from pipeline.comparison.cells import Comparison
from pipeline.comparison.formats import render
from pipeline.comparison.results import planned_results
from pipeline.comparison.tables import table
from pipeline.publication.wide_resnet import PAPER
from pipeline.runner.attempts import run_stage
from pipeline.runner.params_file import load


def main(name: str) -> None:
    """Set table `name` of the paper beside the runs of params.yaml."""
    plan = load()
    of = Comparison(PAPER, plan, planned_results(plan, Path()))
    made = table(name, of)
    new_file(Path(f"results/{made.stem}.csv"), render([made], "csv", PAPER).encode())
    new_file(Path(f"results/{made.stem}.md"), render([made], "markdown", PAPER).encode())


if __name__ == "__main__":
    run_stage(main)
