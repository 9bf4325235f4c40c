"""What is printed on a terminal of 80 columns: names can be copied from it."""

import json
from pathlib import Path
from typing import Any

import pytest
from project import Project, copy_repository

from pipeline.runner.params_file import load


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


@pytest.fixture
def clone(project: Project) -> tuple[Project, str]:
    """As freshly cloned, where dvc.lock has results that do not lie here; and its run."""
    assert project.run("git", "init", "-q").returncode == 0  # DVC asks for it
    (run,) = load(project.root / "params.yaml").runs
    return project, run


@pytest.mark.parametrize("columns", [80, 120])
def test_files_are_whole_in_what_there_is_to_know_of_a_run(clone: tuple[Project, str], columns: int) -> None:
    project, run = clone
    shown = project.cli("status", COLUMNS=str(columns)).stdout
    (found,) = json.loads(project.cli("status", "--json").stdout)["runs"]
    files = {word for reason in found["why"][:3] for word in reason.split() if "/" in word}
    assert {run, "data/beton/cifar10-rgb"} <= {run, *files} <= set(shown.replace(";", " ").split())
    assert max(map(len, shown.partition("table")[0].splitlines())) <= columns
    assert f"Next: wrn-pipe repro {run} trains {run}; " in shown


def test_what_is_missing_is_named_once(clone: tuple[Project, str]) -> None:
    project, run = clone
    (found,) = json.loads(project.cli("status", "--json").stdout)["runs"]
    assert found["state"] == "not started"
    assert len(found["why"]) == len(set(found["why"]))
    assert sum(f"models/{run}/model.safetensors" in reason for reason in found["why"]) == 1


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
