"""Where MLflow keeps its records: the server that MLFLOW_TRACKING_URI names, else a database in this repository."""

import logging
import os
import re
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from mlflow import MlflowClient

FOLDER = Path("tracking")
EXPERIMENT = "wide-residual-networks"
_KIND = {"mlflow.experimentKind": "custom_model_development"}
"""What the web pages show first: runs and their metrics. Without it they guess, and show traces of language models."""


def uri() -> str:
    """MLflow's store. Absolute, because MLflow resolves a relative sqlite path against each process's folder."""
    return os.environ.get("MLFLOW_TRACKING_URI") or _local()


def _local() -> str:
    return f"sqlite:///{(FOLDER / 'mlflow.db').resolve()}"


def client() -> "MlflowClient":
    """A client of a store that exists and has its tables. Raises what MLflow raises when it cannot be reached."""
    # MLflow's own 7 retries of up to 120 s would hold up whoever waits for the mirror.
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "1")
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "10")
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
    logging.getLogger("alembic").setLevel(logging.WARNING)  # it prints each of its forty migrations
    import mlflow
    from filelock import FileLock

    logging.getLogger("mlflow").setLevel(logging.WARNING)
    where = uri()
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
    """The id of the paper's experiment, made where it is not there yet."""
    from mlflow.exceptions import MlflowException

    found = mlflow.get_experiment_by_name(EXPERIMENT)
    if found:
        return str(found.experiment_id)
    # A server knows where it keeps artifacts. (The variable is no sign of one: MLflow itself sets it.)
    local = uri() == _local()
    artifacts = (FOLDER / "artifacts").resolve().as_uri() if local else None
    try:
        return str(mlflow.create_experiment(EXPERIMENT, artifact_location=artifacts, tags=_KIND))
    except MlflowException:  # another process was faster
        found = mlflow.get_experiment_by_name(EXPERIMENT)
        if found is None:
            raise
        return str(found.experiment_id)


def reason(error: Exception) -> str:
    """One line on why MLflow failed, without the user and password that an address may hold."""
    text = " ".join(str(error).split()) or type(error).__name__
    return re.sub(r"//[^/@\s]+@", "//", text)[:200]
