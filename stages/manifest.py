"""manifest: evaluations/*/ and the published claims -> results/manifest.json, what stands behind every cell."""

from pathlib import Path

from pipeline.errors import run_stage
from pipeline.evidence.manifest import manifest
from pipeline.params import load
from pipeline.publish import json_text


def main() -> None:
    """State the provenance of all tables of params.yaml."""
    to = Path("results/manifest.json")
    to.parent.mkdir(exist_ok=True)
    to.write_text(json_text(manifest(load(), Path())), encoding="utf-8")


if __name__ == "__main__":
    run_stage(main)
