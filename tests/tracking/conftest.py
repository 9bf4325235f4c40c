"""A repository with the files of two runs, one recorded while it trained. tests/test_pipeline.py really trains."""

import shutil
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import pytest
from made_up_runs import result
from mlflow import MlflowClient
from mlflow.entities import Run
from project import Project, make_project, told

from pipeline.artifacts import EpochRecord, read_history, write_history
from pipeline.atomic_write import json_text
from pipeline.provenance import fingerprint
from pipeline.publication.wide_resnet import PAPER
from pipeline.runner.params_file import load
from pipeline.tracking.mlflow_logger import mirrored
from pipeline.tracking.sync import log_runs, sync_all

FIRST, SECOND = "cifar10-wrn-40-1-brief-s1", "cifar10-wrn-40-1-brief-s2"


def forget_mlflow(patch: pytest.MonkeyPatch) -> None:
    """As in a new process: MLflow puts the store it uses into the environment, where `patch` takes it out again."""
    patch.setenv("MLFLOW_TRACKING_URI", "")


def lay(run_id: str) -> dict[str, Any]:
    """The files of a training and its evaluation, as if it had been made here; what its run.json says."""
    plan = load()
    seed = plan.run(run_id).seed
    its = {"fingerprint": fingerprint(plan, run_id), "device": {"type": "cpu", "name": "a processor"}}
    made = result(40 + seed, run=run_id, protocol=plan.protocols["brief"], seed=seed, n=104, **its)
    trained, evaluated = Path("models") / run_id, Path("evaluations") / run_id
    for folder in (trained, evaluated):
        folder.mkdir(parents=True)
        made.record.write(folder / "run.json")
    (trained / "model.safetensors").write_bytes(f"weights of {run_id}".encode())
    write_history(trained / "history.csv", [EpochRecord(e, 0.1 / e, 2.0 + seed / e, 60.0 / e) for e in (1, 2)])
    values = made.metrics.model_dump(exclude_none=True) | {"top1_error": made.top1_error}
    (evaluated / "metrics.json").write_text(json_text(values))
    return made.record.model_dump(mode="json")


@pytest.fixture(scope="session")
def trained(tmp_path_factory: pytest.TempPathFactory, tiny_beton: Path) -> Project:
    """Two runs of a claim of Table 4; not to be changed. The second is not in its tracking/ yet."""
    project = make_project(tmp_path_factory.mktemp("trained") / "project")

    def plan(params: Any) -> None:
        params["datasets"] = {"cifar10": params["datasets"]["cifar10-tiny"]}
        params["comparison"]["margins"].pop("cifar10-tiny")
        params["representations"] = {"cifar10-rgb": {"dataset": "cifar10", "kind": "rgb"}}
        its = {"dataset": "cifar10", "representation": "rgb", "network": "WRN-40-1", "protocol": "brief"}
        params["runs"] = {FIRST: its | {"seed": 1}, SECOND: its | {"seed": 2}}

    project.edit(plan)
    (project.root / "data" / "beton").mkdir(parents=True)
    shutil.copytree(tiny_beton, project.root / "data" / "beton" / "cifar10-rgb")
    project.commit("plan")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(project.root)
        forget_mlflow(patch)
        record = lay(FIRST)
        with mirrored(FIRST, record, PAPER) as mirror:
            for row in read_history(Path("models") / FIRST / "history.csv"):
                mirror.epoch(EpochRecord(**asdict(row)), 100.0 * row.epoch)
        log_runs(PAPER, load(), [FIRST])
        lay(SECOND)
    told(project.run("dvc", "commit", "-f", f"train@{FIRST}", f"train@{SECOND}"))
    return project


@dataclass(frozen=True)
class Place:
    """A copy of the trained repository, the folder the test runs in."""

    root: Path

    def sync(self) -> list[str]:
        """What `wrn-pipe track sync` prints."""
        said: list[str] = []
        sync_all(PAPER, load(), said.append)
        return said

    def client(self) -> MlflowClient:
        return MlflowClient(f"sqlite:///{self.root / 'tracking' / 'mlflow.db'}")

    def runs(self) -> dict[str, Run]:
        """Run id -> MLflow's newest run of it."""
        client = self.client()
        where = client.get_experiment_by_name(PAPER.slug).experiment_id
        found = client.search_runs([where], order_by=["attributes.start_time ASC"])
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
