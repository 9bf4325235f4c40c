"""tabulate: evaluations/*/ and the published claims -> results/table-<table>.{csv,md}."""

from pathlib import Path

from pipeline.comparison.results import load_results
from pipeline.comparison.tables import table, write_table
from pipeline.errors import run_stage
from pipeline.models.cost import parameters_of
from pipeline.params import load

CLASSES = {"cifar10": 10, "cifar100": 100, "svhn": 10, "imagenet": 1000}
"""Of the paper's datasets, whose heads its parameter counts include; params.yaml holds those of the plan only."""


def main(name: str) -> None:
    """Set table `name` of the paper beside the runs of params.yaml."""
    plan = load()
    results = [result for result in load_results(Path()) if result.run in plan.runs]

    def parameters(network: str, dataset: str) -> int:
        return parameters_of(network, CLASSES[dataset])

    write_table(table(plan, name, results, parameters), Path("results"))


if __name__ == "__main__":
    run_stage(main)
