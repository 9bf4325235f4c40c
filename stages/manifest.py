"""manifest: evaluations/*/ and the published claims -> results/manifest.json, what stands behind every cell."""

from pathlib import Path

from pipeline.atomic_write import json_text, new_file
from pipeline.comparison.cells import Comparison
from pipeline.comparison.results import planned_results
from pipeline.evidence.table_manifest import manifest
from pipeline.publication.wide_resnet import PAPER
from pipeline.runner.attempts import run_stage
from pipeline.runner.params_file import load


def main() -> None:
    """State the provenance of all tables of params.yaml."""
    plan = load()
    of = Comparison(PAPER, plan, planned_results(plan, Path()))
    new_file(Path("results/manifest.json"), json_text(manifest(of, Path())).encode())


if __name__ == "__main__":
    run_stage(main)
