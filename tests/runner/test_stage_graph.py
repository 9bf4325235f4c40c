"""pipeline.runner.dag against DVC's own reading of dvc.yaml."""

import subprocess
import sys
from pathlib import Path

from pipeline.runner.dag import read_dag, with_behind, with_needed
from pipeline.runner.params_file import load

ROOT = Path(__file__).resolve().parents[2]
RUN = "cifar10-wrn-40-1-quick-s1"


def test_the_stages_and_their_order_are_dvcs() -> None:
    stages = read_dag(load(ROOT / "params.yaml"))
    shown = subprocess.run(
        [sys.executable, "-m", "dvc", "dag", "--dot"], cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout
    edges = {tuple(word.strip(' ";') for word in line.split("->")) for line in shown.splitlines() if "->" in line}
    assert edges == {(needed, stage.name) for stage in stages.values() for needed in stage.needs}
    names = list(stages)
    assert all(names.index(needed) < names.index(stage.name) for stage in stages.values() for needed in stage.needs)


def test_what_a_stage_needs_and_what_needs_it() -> None:
    stages = read_dag(load(ROOT / "params.yaml"))
    assert with_needed(stages, [f"train@{RUN}"]) == ["download@cifar10", "convert@cifar10-rgb", f"train@{RUN}"]
    behind = with_behind(stages, [f"evaluate@{RUN}"])
    assert behind[f"evaluate@{RUN}"] is None
    assert behind["summarize"] == behind["tabulate@4"] == f"evaluate@{RUN}"
    assert f"train@{RUN}" not in behind
