"""A repository with two runs that were really trained and evaluated, one of them with MLflow watching."""

import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from mlflow import MlflowClient
from mlflow.entities import Run, ViewType
from project import Project, make_project

from pipeline.runner.params_file import load
from pipeline.tracking.store import EXPERIMENT
from pipeline.tracking.sync import sync_all

FIRST, SECOND = "cifar10-wrn-40-1-brief-s1", "cifar10-wrn-40-1-brief-s2"


def entry(run: int) -> dict[str, Any]:
    return {"dataset": "cifar10", "representation": "rgb", "network": "WRN-40-1", "protocol": "brief", "seed": run}


def forget_mlflow(patch: pytest.MonkeyPatch) -> None:
    """As in a new process: MLflow puts the store it uses into the environment, where `patch` takes it out again."""
    patch.setenv("MLFLOW_TRACKING_URI", "")


@pytest.fixture(scope="session")
def trained(
    tmp_path_factory: pytest.TempPathFactory, tiny_beton: Path, tiny_dataset_entry: Callable[[str], dict[str, Any]]
) -> Project:
    """Two runs of a claim of Table 4 on tiny images; not to be changed. The second is not in its tracking/ yet."""
    from stages.evaluate import main as evaluate
    from stages.train import main as train

    project = make_project(tmp_path_factory.mktemp("trained") / "project", tiny_dataset_entry("http://127.0.0.1:9/x"))

    def plan(params: Any) -> None:
        params["datasets"] = {"cifar10": params["datasets"]["cifar10-tiny"]}
        params["comparison"]["margins"].pop("cifar10-tiny")
        params["representations"] = {"cifar10-rgb": {"dataset": "cifar10", "kind": "rgb"}}
        params["runs"] = {FIRST: entry(1), SECOND: entry(2)}
        params["loading"] = {"backend": "numpy"}
        # Nothing to be built; and torch's bf16 takes minutes where the processor has no instructions for it.
        params["kernels"] = "torch"
        params["protocols"]["brief"]["precision"] = "fp32"

    project.edit(plan)
    (project.root / "data" / "beton").mkdir(parents=True)
    shutil.copytree(tiny_beton, project.root / "data" / "beton" / "cifar10-rgb")
    project.commit("plan")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(project.root)
        forget_mlflow(patch)
        train(FIRST)
        evaluate(FIRST)
        patch.setenv("MLFLOW_TRACKING_URI", "none://")  # an outage, as far as the second run can see
        train(SECOND)
        evaluate(SECOND)
    done = project.run("dvc", "commit", "-f", f"train@{FIRST}", f"evaluate@{FIRST}", f"train@{SECOND}")
    assert done.returncode == 0, done.stderr
    return project


@dataclass(frozen=True)
class Place:
    """A copy of the trained repository, the folder the test runs in."""

    root: Path

    def sync(self) -> list[str]:
        """What `wrn-pipe track sync` prints."""
        said: list[str] = []
        sync_all(load(), said.append)
        return said

    def client(self) -> MlflowClient:
        return MlflowClient(f"sqlite:///{self.root / 'tracking' / 'mlflow.db'}")

    def runs(self, view: int = ViewType.ACTIVE_ONLY) -> dict[str, Run]:
        """Run id -> MLflow's newest run of it."""
        client = self.client()
        where = client.get_experiment_by_name(EXPERIMENT).experiment_id
        found = client.search_runs([where], "", view, order_by=["attributes.start_time ASC"])
        return {run.info.run_name: run for run in found}


def copy(root: Path, to: Path, patch: pytest.MonkeyPatch) -> Place:
    """A checkout copied with its tracking/; the process is in it, and as if MLflow had never been used in it."""
    shutil.copytree(root, to, ignore=shutil.ignore_patterns("scratch", "cache", "__pycache__"))
    patch.chdir(to)
    forget_mlflow(patch)
    return Place(to)


@pytest.fixture(scope="session")
def synced(trained: Project, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[str]]:
    """A copy after `wrn-pipe track sync`, not to be changed, and what it said."""
    to = tmp_path_factory.mktemp("synced") / "project"
    with pytest.MonkeyPatch.context() as patch:
        return to, copy(trained.root, to, patch).sync()


@pytest.fixture
def place(synced: tuple[Path, list[str]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Place:
    """Another copy of that, to do anything with."""
    return copy(synced[0], tmp_path / "checkout", monkeypatch)
