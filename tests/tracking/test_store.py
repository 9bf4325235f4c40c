"""MLFLOW_TRACKING_URI: what it may be, and that nothing secret in it is ever said."""

from pathlib import Path

import pytest

from pipeline.cli.main import main
from pipeline.tracking.store import name, uri


@pytest.mark.parametrize(
    "address",
    [
        "nonsense",
        "user:sesame@host/db",
        "postgresql://u:sesame@host/db",
        "sqlite://u:sesame@host/x.db",
        "file:///tmp/sesame",
        "https://",
        "http://user:sesame@host:5000",
        "http://127.0.0.1:1/?token=sesame",
        "http://127.0.0.1:1/#sesame",
        "http://user:a/b@sesame:5000",
    ],
)
def test_another_address_is_an_error_that_does_not_repeat_it(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], address: str
) -> None:
    monkeypatch.chdir(Path(__file__).parents[2])
    monkeypatch.setenv("MLFLOW_TRACKING_URI", address)
    monkeypatch.setattr("sys.argv", ["wrn-pipe", "track", "sync"])
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == 2
    shown = capsys.readouterr()
    said, fix = shown.err.splitlines()
    assert "MLFLOW_TRACKING_URI is neither" in said
    assert "MLFLOW_TRACKING_PASSWORD" in fix
    assert "sesame" not in shown.out + shown.err


def test_servers_and_databases_keep_their_address(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    for address in (f"sqlite:///{tmp_path}/m@y.db", "https://host.example:8080/base", "http://127.0.0.1:5000"):
        monkeypatch.setenv("MLFLOW_TRACKING_URI", address)
        assert uri() == name() == address
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "")
    local = uri()
    monkeypatch.setenv("MLFLOW_TRACKING_URI", local)  # as MLflow does, before the folder is made
    assert (uri(), name()) == (local, "tracking/mlflow.db")
