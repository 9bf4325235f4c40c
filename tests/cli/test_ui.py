"""wrn-pipe ui: the real MLflow server on this repository's store, started and stopped as a user does."""

import shutil
import signal
import socket
from pathlib import Path

import httpx
import pytest
from project import ROOT, Project, WrnPipe, free_port, refused, wait_for


@pytest.mark.soak
def test_it_serves_the_store_and_stops(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    log, port = tmp_path / "log", free_port()
    shutil.copyfile(ROOT / "params.yaml", tmp_path / "params.yaml")
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    running = Project(tmp_path).start(log, "ui", "--port", str(port))
    try:
        address = f"http://127.0.0.1:{port}"
        wait_for(address, log, running)
        assert httpx.get(address).status_code == 200, "the address is said when it answers"
        found = httpx.post(f"{address}/api/2.0/mlflow/experiments/search", json={"max_results": 5}).json()
        (experiment,) = (e for e in found["experiments"] if e["name"] == "wide-residual-networks")
        assert experiment["artifact_location"] == (tmp_path / "tracking" / "artifacts").as_uri()
        running.send_signal(signal.SIGINT)
        assert running.wait(30) == 0
        lines = [line for line in log.read_text().splitlines() if not line.startswith("[MLflow] Security middleware")]
        synced, starting, said = lines  # and nothing else of the server's own
        assert synced.startswith("tracking/mlflow.db: no finished training")
        assert starting == "starting MLflow's server"
        assert said.startswith(f"{address}/#/experiments/{experiment['experiment_id']}/runs")
        assert said.endswith(" - Ctrl-C stops it")
        with pytest.raises(httpx.TransportError):
            httpx.get(address)
    finally:
        running.kill()


def test_a_port_in_use_is_a_mistake_with_a_remedy(
    tmp_path: Path, wrn_pipe: WrnPipe, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        said = refused(wrn_pipe("ui", "--port", str(port)))
    assert said == f"error: port {port} is in use\n  fix: wrn-pipe ui --port {port + 1}\n"
    assert not list(tmp_path.iterdir())
