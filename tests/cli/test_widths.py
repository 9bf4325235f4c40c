"""What is printed on a terminal of 80 columns: names can be copied from it."""

from pathlib import Path
from typing import Any

import pytest
from project import Project, copy_repository
from typer.testing import CliRunner

from pipeline.cli.main import app
from pipeline.runner.params_file import load


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Project:
    """As freshly cloned, where dvc.lock has results that are not here; the working directory is in it."""
    project = copy_repository(tmp_path, "params.yaml", "dvc.lock")
    monkeypatch.chdir(tmp_path)
    return project


def shown(*words: str) -> str:
    done = CliRunner().invoke(app, words, env={"COLUMNS": "80", "TERM": "dumb"}, catch_exceptions=False)
    assert done.exit_code == 0, done.output
    return done.stdout


def test_run_ids_and_files_are_whole_in_the_list_of_runs(project: Project) -> None:
    (run,) = load().runs
    few = shown("status")
    assert few.split().count(f"models/{run}/model.safetensors") == 1, "both stages' reason, said once"
    assert f"{run}  not started" in few
    assert f"Next: wrn-pipe repro {run}; " in few
    shown("plan", "--paper-table", "8", "--seeds", "1", "--yes")
    runs, many = load().runs, shown("status")
    assert max(map(len, runs)) > 40
    assert [run for run in runs if run not in many.split()] == []
    for text in (few, many):
        assert "…" not in text
        assert max(map(len, text.partition("table")[0].splitlines())) <= 80


def test_names_are_whole_in_the_list_of_datasets(project: Project) -> None:
    name = "cifar10-as-somebody-else-has-cropped-it"

    def add(params: Any) -> None:
        params["datasets"][name] = params["datasets"]["cifar10"]
        params["representations"][f"{name}-rgb"] = {"dataset": name, "kind": "rgb"}

    project.edit(add)
    text = shown("data")
    assert "…" not in text
    assert "npm" in text
    column = [line[2:].split("  ")[0] for line in text.splitlines() if line.startswith("  ")]
    assert name in "".join(column)
