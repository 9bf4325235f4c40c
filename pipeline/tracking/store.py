"""Where MLflow keeps its records: the server that MLFLOW_TRACKING_URI names, else a database in this repository."""

import json
import logging
import os
import re
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
    secret, for what is neither a server nor a database that can be created.
    """
    where = os.environ.get("MLFLOW_TRACKING_URI")
    if not where or where == _local():
        return _local()
    if where.startswith(_SQLITE):
        folder = Path(where.removeprefix(_SQLITE).partition("?")[0]).parent
        if not folder.is_dir():  # which SQLite would not create, but MLflow does
            raise UserError(f"MLFLOW_TRACKING_URI: folder {folder} not found", f"mkdir -p {quote(str(folder))}")
        return where
    try:
        parts = urlsplit(where)
        # A query could hold a token, and MLflow would print it. An @ behind the host is of a password with a slash.
        valid = parts.scheme in ("http", "https") and parts.hostname and parts.port != 0 and "@" not in parts.path
    except ValueError:  # brackets around no IPv6 address, a port that is not a number
        valid = False
    if not valid or "?" in where or "#" in where:
        raise UserError(
            "MLFLOW_TRACKING_URI is neither the address of an MLflow server nor of an SQLite database",
            "http://HOST:PORT, https://HOST or sqlite:////ABSOLUTE/FILE.db, or unset it for tracking/; in a password "
            "write / ? # [ ] @ as %2F %3F %23 %5B %5D %40, or set MLFLOW_TRACKING_USERNAME and "
            "MLFLOW_TRACKING_PASSWORD; a token goes into MLFLOW_TRACKING_TOKEN",
        )
    if parts.username is None:
        return where
    os.environ["MLFLOW_TRACKING_USERNAME"] = unquote(parts.username)
    os.environ["MLFLOW_TRACKING_PASSWORD"] = unquote(parts.password or "")
    os.environ["MLFLOW_TRACKING_URI"] = f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path}"
    return os.environ["MLFLOW_TRACKING_URI"]


def _local() -> str:
    return f"{_SQLITE}{(FOLDER / 'mlflow.db').resolve()}"


def page(address: str, experiment_id: str) -> str:
    """The list of runs on a server's web pages, with our columns."""
    return f"{address}/#/experiments/{experiment_id}/runs?workflowType=machine_learning&viewStateShareKey={VIEW}"


def name() -> str:
    """The store as messages call it."""
    return f"{FOLDER}/mlflow.db" if uri() == _local() else uri().partition("?")[0]


def connect() -> "tuple[MlflowClient, list[str]]":
    """A client, and the ids of the paper's experiments there: the first is for new runs, others are of a local store
    that was moved. Raises what MLflow raises when the store cannot be reached."""
    # MLflow's own 7 retries of up to 120 s would hold up whoever waits for the logger.
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
    logging.getLogger("mlflow.system_metrics").setLevel(logging.CRITICAL)  # our own message says that a server is gone
    mlflow.set_tracking_uri(where)
    if not where.startswith(_SQLITE):
        return (client := mlflow.MlflowClient(where)), _experiments(client, None)
    FOLDER.mkdir(exist_ok=True)
    with FileLock(FOLDER / ".lock"):  # the client creates the tables, where processes that do it at once fail
        client = mlflow.MlflowClient(where)
        return client, _experiments(client, (FOLDER / "artifacts").resolve().as_uri() if where == _local() else None)


def _experiments(client: "MlflowClient", artifacts: str | None) -> list[str]:
    """See connect. `artifacts`: where those of the local store lie; a server knows its own place.

    MLflow cannot change where an experiment's artifacts lie. After a checkout was moved or copied, another one takes
    the name, and those of the finished runs that are still here are written again there.
    """
    from mlflow.exceptions import MlflowException

    found = client.get_experiment_by_name(EXPERIMENT)
    if found and found.lifecycle_stage == "deleted":
        client.restore_experiment(found.experiment_id)
    if found and artifacts and found.artifact_location != artifacts:
        client.rename_experiment(found.experiment_id, f"{EXPERIMENT}, moved ({found.experiment_id})")
        client.set_experiment_tag(found.experiment_id, "moved", "true")
        found = None
    moved = client.search_experiments(filter_string="tags.moved = 'true'") if artifacts else []
    others = [experiment.experiment_id for experiment in moved]
    if found is None:
        try:
            return [client.create_experiment(EXPERIMENT, artifact_location=artifacts, tags=_TAGS), *others]
        except MlflowException:
            if (found := client.get_experiment_by_name(EXPERIMENT)) is None:
                raise
            # Another process was faster.
    for key, value in _TAGS.items():
        if found.tags.get(key) != value:
            client.set_experiment_tag(found.experiment_id, key, value)
    return [found.experiment_id, *others]


@contextmanager
def explained() -> Iterator[None]:
    """Turn what a failing store raises into a UserError that names it."""
    from mlflow.exceptions import MlflowException
    from sqlalchemy.exc import SQLAlchemyError

    try:
        yield
    except (MlflowException, SQLAlchemyError, OSError) as error:
        if uri() == _local():
            fix = f"make {FOLDER}/ writable, with room on its disk; a database that is broken: move {name()} away"
        else:
            other = "name another database" if uri().startswith(_SQLITE) else "start the server"
            fix = f"{other}, or unset MLFLOW_TRACKING_URI"
        raise UserError(f"MLflow's {name()} fails ({reason(error)})", f"{fix}, then: wrn-pipe track sync") from None


def reason(error: Exception) -> str:
    """One line on why MLflow failed, without the user, password and query that an address may hold."""
    text = " ".join((error.what if isinstance(error, UserError) else str(error)).split()) or type(error).__name__
    return re.sub(r"\?\S+", "", re.sub(r"//[^/@\s]+@", "//", text))[:200]
