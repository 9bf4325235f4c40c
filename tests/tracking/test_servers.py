"""MLflow's own servers: one that MLFLOW_TRACKING_URI names, lost and found again, and the pages of `wrn-pipe ui`."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
from project import Project, free_port, refused, told
from tracking.conftest import FIRST, SECOND, Place

from pipeline.artifacts import EpochRecord
from pipeline.publication.wide_resnet import PAPER
from pipeline.tracking.mlflow_logger import mirrored

pytestmark = pytest.mark.soak
CHROMIUM = shutil.which("chromium")
FLAGS = (
    "--headless --no-sandbox --disable-gpu --disable-dev-shm-usage --disable-quic --no-first-run --disable-sync "
    "--disable-background-networking --disable-component-update --window-size=1500,2600 --virtual-time-budget=60000"
)


@contextmanager
def mlflow_server(folder: Path, port: int) -> Iterator[str]:
    """`mlflow server` with its database, artifacts and log in `folder`, answering at the yielded address."""
    folder.mkdir(exist_ok=True)
    with (folder / "server.log").open("a") as log:
        running = subprocess.Popen(
            [
                *(sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(port)),
                *("--workers", "1", "--backend-store-uri", f"sqlite:///{folder}/mlflow.db"),
                *("--artifacts-destination", (folder / "artifacts").as_uri()),
            ],
            stdout=log,
            stderr=log,
            env={**os.environ, "MLFLOW_TRACKING_URI": "", "MLFLOW_DISABLE_TELEMETRY": "true"},
            start_new_session=True,
        )
    try:
        wait_for(f"http://127.0.0.1:{port}", running)
        yield f"http://127.0.0.1:{port}"
    finally:
        os.killpg(running.pid, signal.SIGKILL)
        running.wait()


def wait_for(address: str, process: "subprocess.Popen[Any]") -> None:
    """Return when `address` answers; it is up to pytest's time limit when it never does."""
    while process.poll() is None:
        try:
            if httpx.get(address).status_code == 200:
                return
        except httpx.TransportError:
            time.sleep(0.1)
    raise AssertionError(f"{address} ended with {process.returncode}")


def test_a_server_is_used_and_its_end_is_said(place: Place, tmp_path: Path) -> None:
    shutil.rmtree(place.root / "tracking")
    project, address = Project(place.root), f"http://127.0.0.1:{(port := free_port())}"
    with mlflow_server(tmp_path / "remote", port):
        for stage in ("train", "evaluate"):
            ran = project.cli("stage", stage, FIRST, MLFLOW_TRACKING_URI=address)
            assert "MLflow" not in told(ran) + ran.stderr
        synced = project.cli("track", "sync", MLFLOW_TRACKING_URI=address)
        assert f"\nmade      {SECOND}\n{address}: 1 as it was, 1 made\n" in synced.stdout
    gone = refused(project.cli("track", "sync", MLFLOW_TRACKING_URI=address))
    assert gone.startswith(f"error: MLflow's {address} fails (")
    assert "\n  fix: start the server, or unset MLFLOW_TRACKING_URI" in gone
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
    said = capfd.readouterr().err
    assert said.count("MLflow") == 1, said
    assert said.startswith(f"MLflow is not recording {FIRST} (")
    assert "wrn-pipe track sync records it later" in said
    with mlflow_server(remote, port):
        # What it had been told does not agree with the files of this test, so it is written again.
        assert place.sync()[:2] == [f"made      {FIRST}", f"made      {SECOND}"]
        assert place.sync()[0] == f"as it was {FIRST}"


@pytest.mark.skipif(CHROMIUM is None and not os.environ.get("CI"), reason="there is no chromium on PATH")
def test_the_list_has_each_run_with_its_error_and_verdict(place: Place, tmp_path: Path) -> None:
    """What a run's own page shows are the tags and metrics of test_sync.py."""
    log, port = tmp_path / "log", free_port()
    running = Project(place.root).start(log, "ui", "--port", str(port))
    try:
        wait_for(f"http://127.0.0.1:{port}", running)
        # The server may answer before the command, which asks it now and then, has seen that and says where.
        while not (said := re.search(r"^(http://\S+) - Ctrl-C stops it$", log.read_text(), re.MULTILINE)):
            assert running.poll() is None, log.read_text()
            time.sleep(0.05)
        # The browser's virtual time passes without waiting for answers of a busy server.
        command = [str(CHROMIUM), *FLAGS.split(), f"--user-data-dir={tmp_path / 'profile'}", "--dump-dom", said[1]]
        for _ in range(5):
            shown = subprocess.run(command, capture_output=True, text=True, timeout=300, check=True).stdout
            if shown.count(">not comparable<") == 2:
                break
    finally:
        running.terminate()  # it ends the server, which has a session of its own
        running.wait(60)
    for name, run in place.runs().items():
        assert f">{name}<" in shown
        # MLflow shows as many digits as there are.
        assert f">{run.data.metrics['test_top1_error']:.6f}"[:9].rstrip("0") in shown
    for column in ("test_top1_error", "verdict", "tables"):
        assert column in shown
    assert shown.count(">not comparable<") == 2
