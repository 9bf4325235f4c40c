"""MLFLOW_TRACKING_URI of a real server: trained, evaluated, synced, lost and found again."""

import json
import shutil
import time
from contextlib import ExitStack
from pathlib import Path

import pytest
from project import Project
from tracking.conftest import FIRST, SECOND, Place
from tracking.servers import free_port, mlflow_server

from pipeline.artifacts import EpochRecord
from pipeline.publication.wide_resnet import PAPER
from pipeline.tracking.mlflow_logger import mirrored

pytestmark = pytest.mark.soak


def test_a_server_is_used_and_its_end_is_said(place: Place, tmp_path: Path) -> None:
    shutil.rmtree(place.root / "tracking")
    project, address = Project(place.root), f"http://127.0.0.1:{(port := free_port())}"
    with mlflow_server(tmp_path / "remote", port):
        for stage in ("train", "evaluate"):
            ran = project.cli("stage", stage, FIRST, MLFLOW_TRACKING_URI=address)
            assert ran.returncode == 0, ran.stderr
            assert "MLflow" not in ran.stderr
        synced = project.cli("track", "sync", MLFLOW_TRACKING_URI=address)
        assert synced.stdout.splitlines() == [
            f"as it was {FIRST}",
            f"made      {SECOND}",
            f"{address}: 1 as it was, 1 made",
        ]
    gone = project.cli("track", "sync", MLFLOW_TRACKING_URI=address)
    assert gone.returncode == 2
    assert gone.stderr.startswith(f"error: MLflow's {address} fails (")
    assert gone.stderr.splitlines()[-1] == (
        "  fix: start the server, or unset MLFLOW_TRACKING_URI, then: wrn-pipe track sync"
    )
    assert not (place.root / "tracking").exists()


def test_a_server_that_goes_during_a_training(
    place: Place, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    remote, port = tmp_path / "remote", free_port()
    record = json.loads((place.root / "models" / FIRST / "run.json").read_text())
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://127.0.0.1:{port}")
    with ExitStack() as server:
        server.enter_context(mlflow_server(remote, port))
        with mirrored(FIRST, record, PAPER) as mirror:
            mirror.epoch(EpochRecord(1, 0.1, 2.0, 50.0), 100.0)
            while not mirror.logged:
                time.sleep(0.05)
            server.close()
            for epoch in (2, 3):
                mirror.epoch(EpochRecord(epoch, 0.1, 2.0, 50.0), 100.0)
    told = capfd.readouterr().err
    assert told.count("MLflow") == 1, told
    assert told.startswith(f"MLflow is not recording {FIRST} (")
    assert "wrn-pipe track sync records it later" in told
    with mlflow_server(remote, port):
        # What it had been told does not agree with the files of this test, so it is written again.
        assert place.sync()[:2] == [f"made      {FIRST}", f"made      {SECOND}"]
        assert place.sync()[0] == f"as it was {FIRST}"
