"""A server's user and password: used, and never said or written."""

import os
from pathlib import Path
from urllib.parse import quote

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pipeline.cli.main import main
from pipeline.errors import UserError
from pipeline.tracking.store import client, explained, reason, uri
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


@pytest.mark.parametrize("password", ["a/b", "a?b", "a#b", "1/b@c"])
def test_a_password_that_ends_who_knows_where_is_refused_and_not_repeated(
    monkeypatch: pytest.MonkeyPatch, password: str
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://user:{password}@host:5000")
    with pytest.raises(UserError) as error:
        uri()
    assert password not in str(error.value)
    assert "host" not in error.value.what


@pytest.mark.parametrize(
    ("address", "what", "remedy"),
    [
        ("nonsense", "has to name a server (http, https) or sqlite", "http://HOST:PORT"),
        ("user:secret@host/db", "has to name a server (http, https) or sqlite", "sqlite:////ABSOLUTE"),
        ("postgresql://u:secret@host/db", "a server (http, https) or sqlite, not postgresql://", "http://HOST:PORT"),
        ("mysql+pymysql://u:secret@host/db", "or sqlite, not mysql+pymysql://", "http://HOST:PORT"),
        ("sqlite://u:secret@host/x.db", "or sqlite, not sqlite://", "sqlite:////ABSOLUTE"),
        ("file:///tmp/mlruns", "or sqlite, not file://", "http://HOST:PORT"),
        ("http://[bad", "is no address of a server", "http://HOST:PORT"),
        ("http://user:secret@[bad", "is no address of a server", "%5B"),
        ("http://user:secret@host:port", "is no address of a server", "http://HOST:PORT"),
        ("https://", "is no address of a server", "https://HOST"),
        ("http://127.0.0.1:1/?token=secret", "has a query or a fragment", "MLFLOW_TRACKING_TOKEN"),
        ("http://127.0.0.1:1/#secret", "has a query or a fragment", "MLFLOW_TRACKING_TOKEN"),
        ("http://user:secret@127.0.0.1:1?", "has a query or a fragment", "MLFLOW_TRACKING_TOKEN"),
    ],
)
def test_what_is_no_address_is_a_mistake_with_a_remedy(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], address: str, what: str, remedy: str
) -> None:
    monkeypatch.chdir(Path(__file__).parents[2])
    monkeypatch.setenv("MLFLOW_TRACKING_URI", address)
    monkeypatch.setattr("sys.argv", ["wrn-pipe", "track", "sync"])
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == 2
    shown = capsys.readouterr()
    said, fix = shown.err.splitlines()
    assert what in said
    assert remedy in fix
    assert "secret" not in shown.out + shown.err


def test_no_folder_is_made_for_a_database(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path}/none/x.db")
    with pytest.raises(UserError, match="there is no folder"), explained():
        client()
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
