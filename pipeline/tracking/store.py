"""Where MLflow keeps its records: the server that MLFLOW_TRACKING_URI names, else a database in this repository."""

import json
import logging
import os
import re
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from shlex import quote
from typing import TYPE_CHECKING
from urllib.parse import unquote, urlsplit

from pipeline.errors import UserError
from pipeline.publication.paper import PAPER

if TYPE_CHECKING:
    from mlflow import MlflowClient

FOLDER = Path("tracking")
_SQLITE = "sqlite:///"
_FORMS = "http://HOST:PORT, https://HOST or sqlite:////ABSOLUTE/FILE.db; unset, it is in tracking/"
RATE = "images_per_second"
"""The one metric of ours that no file holds: a clock measured it."""
LATER = "its files are complete without; wrn-pipe track sync records it later"
"""Ends what is said when MLflow does not record a run."""
EXPERIMENT = PAPER.slug
NOTE = f"""Trainings of [{PAPER.title}]({PAPER.url}) by `wrn-pipe`, one run each. \
The files of the repository are the truth; `wrn-pipe track sync` makes these pages say what they say.

Filter by tags: `tags.tables LIKE '%4%' AND tags.verdict != 'not comparable'`, `tags.dataset = 'cifar10'`, and
`network`, `protocol`, `seed`, `fingerprint`, `commit`, `dirty`, `dvc_stage`, `dvc_lock`.
"""
VIEW = "wrn-pipe"
"""Name of the columns that we share with readers; their own choice is kept by their browser."""
_COLUMNS = ("metrics.`test_top1_error`", "tags.`tables`", "tags.`verdict`")  # the rest is in a run's name
_TAGS = {
    # What the web pages show first: runs and their metrics. Without it they guess, and show traces of language models.
    "mlflow.experimentKind": "custom_model_development",
    "mlflow.note.content": NOTE,
    f"mlflow.sharedViewState.{VIEW}": json.dumps({"selectedColumns": _COLUMNS}),
}


def uri() -> str:
    """MLflow's store. Absolute, because MLflow resolves a relative sqlite path against each process's folder.

    A user and password in MLFLOW_TRACKING_URI are moved to the variables that MLflow reads them from: MLflow prints
    addresses, in links to runs and in errors. Raises UserError, which repeats no part of the address that could be
    secret, for what is neither a server nor a database that can be made.
    """
    where = os.environ.get("MLFLOW_TRACKING_URI")
    if not where or where == _local():
        return _local()
    scheme = where.partition("://")[0].lower()
    if scheme in ("http", "https"):
        return _server(where)
    if where.startswith(_SQLITE):
        folder = Path(where.removeprefix(_SQLITE).partition("?")[0]).parent
        if not folder.is_dir():  # which SQLite would not make, but MLflow does
            raise UserError(f"MLFLOW_TRACKING_URI: there is no folder {folder}", f"mkdir -p {quote(str(folder))}")
        return where
    # MLflow has others: databases that need drivers of their own, clouds, folders of files, which it gives up.
    kind = f"{scheme}://" if re.fullmatch(r"[a-z][a-z0-9+.-]*", scheme) and "://" in where else "something else"
    raise UserError(f"MLFLOW_TRACKING_URI has to name a server (http, https) or sqlite, not {kind}", _FORMS)


def _server(where: str) -> str:
    scheme, _, rest = where.partition("://")
    authority = re.split("[/?#]", rest, maxsplit=1)[0]
    if "@" in rest[len(authority) :]:
        raise UserError(
            "MLFLOW_TRACKING_URI: where the password ends is not clear",
            "write / ? # in it as %2F %3F %23, or set MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD",
        )
    try:
        parts = urlsplit(where)
        named = bool(parts.hostname) and parts.port != 0
    except ValueError:  # brackets that are no IPv6 address, a port that is no number
        named = False
    if not named:
        in_password = "; [ ] in a password are %5B %5D" if "@" in authority else ""
        raise UserError("MLFLOW_TRACKING_URI is no address of a server", f"{_FORMS}{in_password}")
    if len(rest) > len(authority) + len(parts.path):
        raise UserError(
            "MLFLOW_TRACKING_URI has a query or a fragment, which MLflow would print",
            "leave out ? or # and what follows; a token goes into MLFLOW_TRACKING_TOKEN",
        )
    if parts.username is None:
        return where
    os.environ["MLFLOW_TRACKING_USERNAME"] = unquote(parts.username)
    os.environ["MLFLOW_TRACKING_PASSWORD"] = unquote(parts.password or "")
    os.environ["MLFLOW_TRACKING_URI"] = f"{scheme}://{rest.rpartition('@')[2]}"
    return os.environ["MLFLOW_TRACKING_URI"]


def _local() -> str:
    return f"{_SQLITE}{(FOLDER / 'mlflow.db').resolve()}"


def is_local() -> bool:
    """Whether the store is this repository's. (A set variable is no sign of a server: MLflow itself sets it.)"""
    return uri() == _local()


def page(address: str, experiment_id: str) -> str:
    """The list of runs on a server's web pages, with our columns."""
    return f"{address}/#/experiments/{experiment_id}/runs?workflowType=machine_learning&viewStateShareKey={VIEW}"


def name() -> str:
    """The store as messages call it."""
    return f"{FOLDER}/mlflow.db" if is_local() else uri().partition("?")[0]


def client() -> "MlflowClient":
    """A client of a store that exists and has its tables. Raises what MLflow raises when it cannot be reached."""
    # MLflow's own 7 retries of up to 120 s would hold up whoever waits for the mirror.
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "1")
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "10")
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
    os.environ.setdefault("MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT", "true")
    os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")
    logging.getLogger("alembic").setLevel(logging.WARNING)  # it prints each of its forty migrations
    logging.getLogger("urllib3.connectionpool").setLevel(logging.ERROR)  # each attempt, before the error that we say
    where = uri()
    import mlflow
    from filelock import FileLock

    logging.getLogger("mlflow").setLevel(logging.WARNING)
    logging.getLogger("mlflow.system_metrics").setLevel(logging.CRITICAL)  # our own words say that a server is gone
    mlflow.set_tracking_uri(where)
    made = mlflow.MlflowClient(where)
    if not where.startswith("sqlite:"):
        made.search_experiments(max_results=1)
        return made
    FOLDER.mkdir(exist_ok=True)
    # Processes that create the tables at the same time fail.
    with FileLock(FOLDER / ".lock"):
        made.search_experiments(max_results=1)
    return made


def experiment(mlflow: "MlflowClient") -> str:
    """The id of the paper's experiment: made where it is not there, restored where it was deleted."""
    from mlflow.exceptions import MlflowException

    artifacts = (FOLDER / "artifacts").resolve().as_uri() if is_local() else None  # a server knows its own place
    found = mlflow.get_experiment_by_name(EXPERIMENT)
    if found is None:
        try:
            return str(mlflow.create_experiment(EXPERIMENT, artifact_location=artifacts, tags=_TAGS))
        except MlflowException:  # another process was faster
            found = mlflow.get_experiment_by_name(EXPERIMENT)
            if found is None:
                raise
    if found.lifecycle_stage == "deleted":
        mlflow.restore_experiment(found.experiment_id)
    for key, value in _TAGS.items():
        if found.tags.get(key) != value:
            mlflow.set_experiment_tag(found.experiment_id, key, value)
    if artifacts is not None and found.artifact_location != artifacts:
        _move(found.artifact_location, artifacts)
    return str(found.experiment_id)


def _move(old: str, new: str) -> None:
    """Say in the database that the artifacts lie elsewhere: the checkout was moved or copied with it.

    MLflow keeps absolute addresses and has no call that changes them.
    """
    with sqlite3.connect(FOLDER / "mlflow.db") as database:
        for table, column in (
            ("experiments", "artifact_location"),
            ("runs", "artifact_uri"),
            ("logged_models", "artifact_location"),
        ):
            below = f"substr({column} || '/', 1, {len(old) + 1}) = ?"
            change = f"UPDATE {table} SET {column} = ? || substr({column}, {len(old) + 1}) WHERE {below}"
            database.execute(change, (new, f"{old}/"))
    database.close()


@contextmanager
def explained() -> Iterator[None]:
    """Turn what a failing store raises into a UserError that names it."""
    from mlflow.exceptions import MlflowException
    from sqlalchemy.exc import SQLAlchemyError

    try:
        yield
    except (MlflowException, SQLAlchemyError, sqlite3.Error, OSError) as error:
        other = "name another database" if uri().startswith(_SQLITE) else "start the server"
        mend = _mend_local(error) if is_local() else f"{other}, or unset MLFLOW_TRACKING_URI"
        raise UserError(f"MLflow's {name()} fails ({reason(error)})", f"{mend}, then: wrn-pipe track sync") from None


def _mend_local(error: Exception) -> str:
    if "database is locked" in str(error):
        return "wait for whoever writes to it"
    unwritable = isinstance(error, OSError) or any(words in str(error) for words in _UNWRITABLE)
    return f"make {FOLDER}/ writable, with room on its disk" if unwritable else f"move {name()} away"


_UNWRITABLE = ("readonly database", "disk is full", "unable to open database file", "disk I/O error")
"""In what SQLite says where nothing is wrong with the database itself."""


def reason(error: Exception) -> str:
    """One line on why MLflow failed, without the user, password and query that an address may hold."""
    text = " ".join((error.what if isinstance(error, UserError) else str(error)).split()) or type(error).__name__
    return re.sub(r"\?\S+", "", re.sub(r"//[^/@\s]+@", "//", text))[:200]
