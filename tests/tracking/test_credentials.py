"""A server's user and password: used, and never said or written."""

import os
from urllib.parse import quote

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pipeline.errors import UserError
from pipeline.tracking.store import reason, uri

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


def test_a_reason_holds_no_credentials_and_one_line() -> None:
    told = reason(ValueError("cannot reach\n http://user:secret@host:5000/api:  gone"))
    assert told == "cannot reach http://host:5000/api: gone"
