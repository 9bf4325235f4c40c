"""MLFLOW_TRACKING_URI of a real server that asks for credentials: trained, evaluated, synced, lost and found again."""

import base64
import json
import os
import shutil
import sqlite3
import subprocess
import sys
import time
from contextlib import ExitStack
from pathlib import Path
from urllib.parse import quote

import pytest
from tracking.conftest import FIRST, SECOND, Place
from tracking.servers import free_port, gate, mlflow_server

from pipeline.artifacts import EpochRecord
from pipeline.tracking.mlflow_logger import mirrored

pytestmark = pytest.mark.soak
USER, PASSWORD = "some@one", "gRk7/sesame:2?"
SECRETS = (
    *(PASSWORD, quote(PASSWORD), quote(PASSWORD, ""), quote(USER, "")),
    base64.b64encode(f"{USER}:{PASSWORD}".encode()).decode(),
)


def cli(place: Place, *arguments: str, uri: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [sys.executable, "-c", "from pipeline.cli.main import main; main()", *arguments],
        cwd=place.root,
        env={**os.environ, "MLFLOW_TRACKING_URI": uri},
        capture_output=True,
        text=True,
        check=False,
    )


def test_a_server_with_a_password(place: Place, tmp_path: Path) -> None:
    shutil.rmtree(place.root / "tracking")
    remote, port, said = tmp_path / "remote", free_port(), []
    with gate(f"http://127.0.0.1:{port}", USER, PASSWORD) as guard:
        address = f"127.0.0.1:{guard.port}"
        right = f"http://{quote(USER, '')}:{quote(PASSWORD, '')}@{address}"

        def run(*arguments: str, uri: str = right) -> "subprocess.CompletedProcess[str]":
            ran = cli(place, *arguments, uri=uri)
            said.append(ran.stdout + ran.stderr)
            return ran

        with mlflow_server(remote, port):
            for stage in ("train", "evaluate"):
                ran = run("stage", stage, FIRST)
                assert ran.returncode == 0, ran.stderr
                assert "MLflow" not in ran.stderr
            synced = run("track", "sync")
            assert synced.stdout.splitlines()[:2] == [f"as it was {FIRST}", f"made      {SECOND}"], synced.stderr
            assert f"http://{address}: 1 as it was, 1 made" in synced.stdout
            again = run("track", "sync").stdout.splitlines()
            assert again[:2] == [f"as it was {FIRST}", f"as it was {SECOND}"]
            assert set(guard.answers) <= {200, 404}  # it asks for an experiment by its name before it makes it
            refused = run("track", "sync", uri=f"http://someone:wrong@{address}")
            assert refused.returncode == 2
            assert "401" in refused.stderr
            assert "wrong" not in refused.stderr
        gone = run("track", "sync")
        assert gone.returncode == 2
        assert gone.stderr.startswith(f"error: MLflow's http://{address} fails (")
        assert gone.stderr.splitlines()[-1] == (
            "  fix: start the server, or unset MLFLOW_TRACKING_URI, then: wrn-pipe track sync"
        )
    with sqlite3.connect(remote / "mlflow.db") as database:
        (measured,) = database.execute("select count(*) from metrics where key = 'images_per_second'").fetchone()
    assert measured == 2
    assert len(list(remote.rglob("*.png"))) == 6
    assert not (place.root / "tracking").exists()
    files = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert remote / "server.log" in files
    for secret in SECRETS:
        assert not [path for path in files if secret.encode() in path.read_bytes()]
        assert not [text for text in said if secret in text]


def test_a_server_that_goes_during_a_training(
    place: Place, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    remote, port = tmp_path / "remote", free_port()
    record = json.loads((place.root / "models" / FIRST / "run.json").read_text())
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://{quote(USER, '')}:{quote(PASSWORD, '')}@127.0.0.1:{port}")
    with ExitStack() as server:
        server.enter_context(mlflow_server(remote, port))
        with mirrored(FIRST, record) as mirror:
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
    assert not any(secret in told for secret in SECRETS)
    with mlflow_server(remote, port):
        # What it had been told does not agree with the files of this test, so it is written again.
        assert place.sync()[:2] == [f"made      {FIRST}", f"made      {SECOND}"]
        assert place.sync()[0] == f"as it was {FIRST}"
