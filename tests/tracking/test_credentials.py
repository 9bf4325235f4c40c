"""A server's user and password: used, and never said or written."""

import os
from pathlib import Path
from urllib.parse import quote

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pipeline.cli.main import main
from pipeline.errors import UserError
from pipeline.tracking.store import connect, explained, reason, uri
from pipeline.tracking.store import name as name_of_store

text = st.text(st.characters(codec="utf-8", exclude_categories=("Cs", "Cc")), min_size=1)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(text, text)
def test_they_move_out_of_the_address(monkeypatch: pytest.MonkeyPatch, user: str, password: str) -> None:
    for name in ("USERNAME", "PASSWORD"):
        monkeypatch.setenv(f"MLFLOW_TRACKING_{name}", "")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"https://{quote(user, '')}:{quote(password, '')}@host.example:8080/base")
    for _ in range(2):  # MLflow puts the address it is given into the variable, so the second time it is clean
        assert uri() == "https://host.example:8080/base"
        assert os.environ["MLFLOW_TRACKING_URI"] == "https://host.example:8080/base"
        assert os.environ["MLFLOW_TRACKING_USERNAME"] == user
        assert os.environ["MLFLOW_TRACKING_PASSWORD"] == password


@pytest.mark.parametrize(
    "address",
    [
        "nonsense",
        "user:secret@host/db",
        "postgresql://u:secret@host/db",
        "sqlite://u:secret@host/x.db",
        "file:///tmp/secret",
        "https://",
        "http://user:secret@[bad",
        "http://user:secret@host:port",
        "http://127.0.0.1:1/?token=secret",
        "http://127.0.0.1:1/#secret",
        *(f"http://user:{password}@secret:5000" for password in ("a/b", "a?b", "a#b", "1/b@c")),  # where does it end?
    ],
)
def test_what_is_not_an_address_is_an_error_that_does_not_repeat_it(
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
    assert "http://HOST:PORT" in fix
    assert "secret" not in shown.out + shown.err


def test_no_folder_is_made_for_a_database(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path}/none/x.db")
    with pytest.raises(UserError, match=r"folder .* not found"), explained():
        connect()
    assert list(tmp_path.iterdir()) == []


def test_a_database_of_ones_own_keeps_its_address(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("USERNAME", "PASSWORD"):
        monkeypatch.delenv(f"MLFLOW_TRACKING_{name}", raising=False)
    for address in (f"sqlite:///{tmp_path}/m@y.db", f"sqlite:///{tmp_path}/my.db?timeout=30"):
        monkeypatch.setenv("MLFLOW_TRACKING_URI", address)
        assert uri() == address
        assert name_of_store() == address.partition("?")[0]
    assert "MLFLOW_TRACKING_USERNAME" not in os.environ
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "")
    local = uri()
    monkeypatch.setenv("MLFLOW_TRACKING_URI", local)  # as MLflow does, before the folder is made
    assert (uri(), name_of_store()) == (local, "tracking/mlflow.db")


def test_a_reason_holds_no_credentials_and_one_line() -> None:
    told = reason(ValueError("cannot reach\n http://user:secret@host:5000/api:  gone"))
    assert told == "cannot reach http://host:5000/api: gone"
    told = reason(ValueError("url: /?token=secret/api/2.0 (Caused by: no http://host/x?token=secret) Really? yes"))
    assert told == "url: / (Caused by: no http://host/x Really? yes"
    assert reason(UserError("what", "remedy")) == "what"
