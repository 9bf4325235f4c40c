"""What is printed on a terminal of 80 columns: names can be copied from it."""

from pathlib import Path
from typing import Any

import pytest
from project import Project, copy_repository

from pipeline.params import load


@pytest.fixture
def project(tmp_path: Path) -> Project:
    return copy_repository(tmp_path, "params.yaml", "dvc.lock")


def test_run_ids_are_whole_in_the_list_of_runs(project: Project) -> None:
    assert project.cli("plan", "--paper-table", "8", "--seeds", "1", "--yes").returncode == 0
    runs = load(project.root / "params.yaml").runs
    assert max(map(len, runs)) > 40
    for columns in ("80", "120"):
        ran = project.cli("status", COLUMNS=columns)
        assert ran.returncode == 0, ran.stderr
        assert "…" not in ran.stdout
        words = ran.stdout.split()
        assert [run for run in runs if run not in words] == []
        assert max(map(len, ran.stdout.partition("table")[0].splitlines())) <= int(columns)


def test_names_are_whole_in_the_list_of_datasets(project: Project) -> None:
    name = "cifar10-as-somebody-else-has-cropped-it"

    def add(params: Any) -> None:
        params["datasets"][name] = params["datasets"]["cifar10"]
        params["representations"][f"{name}-rgb"] = {"dataset": name, "kind": "rgb"}

    project.edit(add)
    ran = project.cli("data", COLUMNS="80")
    assert ran.returncode == 0, ran.stderr
    assert "…" not in ran.stdout
    assert "npm" in ran.stdout
    column = [line[2:].split("  ")[0] for line in ran.stdout.splitlines() if line.startswith("  ")]
    assert name in "".join(column)
