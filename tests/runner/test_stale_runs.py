"""Which runs get jobs, and from which stage on."""

from pathlib import Path

import pytest

from pipeline.provenance import fingerprint
from pipeline.runner.dag import read_dag
from pipeline.runner.dvc import looked_at
from pipeline.runner.fan_out import stale_runs
from pipeline.runner.params_file import load
from pipeline.runner.submit import Work

ROOT = Path(__file__).resolve().parents[2]
RUN = "cifar10-wrn-40-1-quick-s1"


@pytest.mark.parametrize(
    ("targets", "expected"),
    [
        ([RUN], ["train"]),
        ([], ["train"]),
        ([f"train@{RUN}"], ["train"]),
        (["tabulate"], ["train"]),
        (["convert"], []),
        (["download@cifar10"], []),
    ],
)
def test_with_force_all_runs_behind_the_targets_are_trained(
    targets: list[str], expected: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(ROOT)
    plan = load()
    stages = read_dag(plan)
    wanted = looked_at(plan, targets, stages)
    assert stale_runs(plan, wanted, stages, force=True) == [
        Work(RUN, fingerprint(plan, RUN), "train") for _ in expected
    ]
