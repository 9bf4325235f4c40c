"""MLflow's own servers: one that MLFLOW_TRACKING_URI names, lost and found again, and the pages of `wrn-pipe ui`."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
from project import WRN_PIPE, Project, free_port
from tracking.conftest import FIRST, SECOND, Place, copy

from pipeline.artifacts import EpochRecord
from pipeline.publication.wide_resnet import PAPER
from pipeline.tracking.mlflow_logger import mirrored

pytestmark = pytest.mark.soak
CHROMIUM = shutil.which("chromium")
FLAGS = (
    "--headless --no-sandbox --disable-gpu --disable-dev-shm-usage --disable-quic --no-first-run --disable-sync "
    "--disable-background-networking --disable-component-update --window-size=1500,2600"
)
Open = Callable[..., str]


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
    assert "unset MLFLOW_TRACKING_URI, then: wrn-pipe track sync" in gone.stderr.splitlines()[-1]
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


@pytest.fixture(scope="module")
def pages(synced: tuple[Path, list[str]], tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Place, str]]:
    """A place whose `wrn-pipe ui` is running, and the address that it says."""
    if CHROMIUM is None and not os.environ.get("CI"):
        pytest.skip("there is no chromium on PATH")
    to, port = tmp_path_factory.mktemp("pages"), free_port()
    with pytest.MonkeyPatch.context() as patch:
        place = copy(synced[0], to / "checkout", patch)
        with (to / "log").open("w") as log:
            running = subprocess.Popen(
                [*WRN_PIPE, "ui", "--port", str(port)],
                cwd=place.root,
                stdout=log,
                stderr=log,
                preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # a background job ignores it
            )
        try:
            wait_for(f"http://127.0.0.1:{port}", running)
            # The server may answer before the command, which asks it now and then, has seen that and says where.
            while not (said := re.search(r"^(http://\S+) - Ctrl-C stops it$", (to / "log").read_text(), re.MULTILINE)):
                assert running.poll() is None, (to / "log").read_text()
                time.sleep(0.05)
            yield place, said[1]
        finally:
            running.send_signal(signal.SIGINT)
            assert running.wait(60) == 0


@pytest.fixture
def text_of(tmp_path: Path) -> Open:
    """What the page at an address holds once its scripts have run and it shows enough, or after five attempts.

    The browser's virtual time passes without waiting for answers of a busy server.
    """

    def opened(address: str, enough: Callable[[str], bool]) -> str:
        # Charts are drawn when they come into view, and into view comes only what is drawn for a picture.
        files = (f"--user-data-dir={tmp_path / 'profile'}", f"--screenshot={tmp_path / 'page.png'}")
        flags = (*FLAGS.split(), *files, "--virtual-time-budget=60000", "--dump-dom")
        command = [str(CHROMIUM), *flags, address]
        for _ in range(5):
            shown = subprocess.run(command, capture_output=True, text=True, timeout=300, check=True).stdout
            if enough(shown):
                break
        return shown

    return opened


def test_the_list_has_each_run_with_its_error_and_verdict(pages: tuple[Place, str], text_of: Open) -> None:
    place, address = pages
    shown = text_of(address, lambda shown: shown.count(">not comparable<") == 2)
    for name, run in place.runs().items():
        assert f">{name}<" in shown
        # MLflow shows as many digits as there are.
        assert f">{run.data.metrics['test_top1_error']:.6f}"[:9].rstrip("0") in shown
    for column in ("test_top1_error", "verdict", "tables"):
        assert column in shown
    assert shown.count(">not comparable<") == 2


def test_a_run_tells_its_story_and_has_curves(pages: tuple[Place, str], text_of: Open) -> None:
    place, address = pages
    page = f"{address.split('?')[0]}/{place.runs()[FIRST].info.run_id}"
    shown = told(text_of(page, lambda shown: f"wrn-pipe repro {FIRST}" in told(shown)))
    assert "not comparable - Table 4, WRN-40-1 on CIFAR-10" in shown
    assert "epochs: 2 instead of 200 (length of training)" in shown
    assert f"wrn-pipe repro {FIRST}" in shown
    shown = text_of(f"{page}/model-metrics", lambda shown: shown.count('class="js-line') >= 4)
    for metric in ("train_loss", "train_error", "learning_rate", "images_per_second", "test_top1_error"):
        assert metric in shown
    assert shown.count('class="js-line') >= 4, "curves are drawn"


def told(page: str) -> str:
    """Its text, without tags."""
    return re.sub(r"<[^>]+>", "", page)
