"""Where MLflow keeps its records: the server that MLFLOW_TRACKING_URI names, else a database in this repository."""

import json
import logging
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from pipeline.errors import UserError
from pipeline.publication.paper import Paper

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Run

FOLDER = Path("tracking")
_SQLITE = "sqlite:///"
RATE = "images_per_second"
"""The one metric of ours that no file holds: a clock measured it."""
LATER = "its files are complete without; wrn-pipe track sync records it later"
"""Ends what is said when MLflow does not record a run."""
VIEW = "wrn-pipe"
"""Name of the columns that we share with readers; their own choice is kept by their browser."""
_NOTE = """Trainings of [{title}]({url}) by `wrn-pipe`, one run each. \
The files of the repository are the truth; `wrn-pipe track sync` makes these pages say what they say.

Filter by tags: `tags.tables LIKE '%4%' AND tags.verdict != 'not comparable'`, `tags.dataset = 'cifar10'`, and
`network`, `protocol`, `seed`, `fingerprint`, `commit`, `dirty`, `dvc_stage`, `dvc_lock`,
`weights_sha256`.
"""
_COLUMNS = ("metrics.`test_top1_error`", "tags.`tables`", "tags.`verdict`")  # the rest is in a run's name


def uri() -> str:
    """MLflow's store. Absolute, because MLflow resolves a relative sqlite path against each process's folder.

    Raises UserError for what is neither a server nor an SQLite database, or could hold a password or token, which
    MLflow prints in links and errors: so no part of it is repeated.
    """
    where = os.environ.get("MLFLOW_TRACKING_URI") or _local()
    if not where.startswith(_SQLITE) and not re.fullmatch(r"https?://[^/?#@\s]+(/[^?#@\s]*)?", where):
        raise UserError(
            "MLFLOW_TRACKING_URI is neither the address of an MLflow server nor of an SQLite database",
            "http://HOST:PORT, https://HOST or sqlite:////ABSOLUTE/FILE.db, or unset it for tracking/; secrets go into "
            "MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD, or MLFLOW_TRACKING_TOKEN",
        )
    return where


def _local() -> str:
    return f"{_SQLITE}{(FOLDER / 'mlflow.db').resolve()}"


def page(address: str, experiment_id: str) -> str:
    """The list of runs on a server's web pages, with our columns."""
    return f"{address}/#/experiments/{experiment_id}/runs?workflowType=machine_learning&viewStateShareKey={VIEW}"


def name() -> str:
    """The store as messages call it."""
    return f"{FOLDER}/mlflow.db" if uri() == _local() else uri().partition("?")[0]


def connect(paper: Paper) -> "tuple[MlflowClient, str]":
    """A client, and the id of the paper's experiment. Raises what MLflow raises when the store cannot be reached."""
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
        return (client := mlflow.MlflowClient(where)), _experiment(client, paper, None)
    FOLDER.mkdir(exist_ok=True)
    with FileLock(FOLDER / ".lock"):  # the client creates the tables, where processes that do it at once fail
        client = mlflow.MlflowClient(where)
        artifacts = (FOLDER / "artifacts").resolve().as_uri() if where == _local() else None
        return client, _experiment(client, paper, artifacts)


def _experiment(client: "MlflowClient", paper: Paper, artifacts: str | None) -> str:
    """See connect. `artifacts`: where those that users add go; a server knows its own place."""
    from mlflow.exceptions import MlflowException

    tags = {
        # What the web pages show first: runs and their metrics. Else they guess, and show traces of language models.
        "mlflow.experimentKind": "custom_model_development",
        "mlflow.note.content": _NOTE.format(title=paper.title, url=paper.url),
        f"mlflow.sharedViewState.{VIEW}": json.dumps({"selectedColumns": _COLUMNS}),
    }
    found = client.get_experiment_by_name(paper.slug)
    if found is None:
        try:
            return client.create_experiment(paper.slug, artifact_location=artifacts, tags=tags)
        except MlflowException:
            if (found := client.get_experiment_by_name(paper.slug)) is None:
                raise
            # Another process was faster.
    if found.lifecycle_stage == "deleted":
        client.restore_experiment(found.experiment_id)
    for key, value in tags.items():
        if found.tags.get(key) != value:
            client.set_experiment_tag(found.experiment_id, key, value)
    return found.experiment_id


def runs_of(experiment: str, fingerprint: str) -> "list[Run]":
    """All records of one training, deleted ones included; the oldest first."""
    import mlflow
    from mlflow.entities import ViewType

    wanted, order = f"tags.fingerprint = '{fingerprint}'", ["attributes.start_time ASC"]
    return mlflow.search_runs([experiment], wanted, ViewType.ALL, order_by=order, output_format="list")


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
    """One line on why MLflow failed."""
    text = error.what if isinstance(error, UserError) else str(error)
    return " ".join(text.split())[:200] or type(error).__name__
