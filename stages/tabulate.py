"""tabulate: evaluations/*/ and the published claims -> results/table-<table>.{csv,md}."""

from pathlib import Path

from pipeline.comparison.formats import write_table
from pipeline.comparison.results import planned_results
from pipeline.comparison.tables import table
from pipeline.runner.params_file import load
from pipeline.runner.stage_entry import run_stage


def main(name: str) -> None:
    """Set table `name` of the paper beside the runs of params.yaml."""
    plan = load()
    write_table(table(plan, name, planned_results(plan, Path())), Path("results"))


if __name__ == "__main__":
    run_stage(main)
