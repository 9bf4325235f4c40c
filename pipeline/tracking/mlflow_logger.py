"""MLflow: where it keeps its records, and how it shows a training while that goes on.

They are with the server that MLFLOW_TRACKING_URI names, else in a database of this repository. A server that fails
never hurts a training.
"""

import json
import logging
import os
import queue
import re
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import asdict
from pathlib import Path
from textwrap import shorten
from typing import TYPE_CHECKING, Any

from pipeline.errors import UserError
from pipeline.params import Protocol
from pipeline.progress import say
from pipeline.provenance import commit
from pipeline.publication.claims import Claim, canonical
from pipeline.publication.paper import Paper
from pipeline.training.hooks import RunLogger

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Run

    from pipeline.artifacts import EpochRecord

_FOLDER = "tracking"
_SQLITE = "sqlite:///"
RATE = "images_per_second"
"""The one metric of ours that no file holds: a clock measured it."""
LATER = "its files are complete without; wrn-pipe track sync records it later"
"""Ends what is said when MLflow does not record a run."""
NO_CLAIM = "no claim"
_VIEW = "wrn-pipe"
"""Name of the columns that we share with readers; their own choice is kept by their browser."""
_NOTE = """Trainings of [{title}]({url}) by `wrn-pipe`, one run each. \
The files of the repository are the truth; `wrn-pipe track sync` makes these pages say what they say.

Filter by tags: `tags.tables LIKE '%4%' AND tags.verdict != 'not comparable'`, `tags.dataset = 'cifar10'`, and
`network`, `protocol`, `seed`, `fingerprint`, `commit`, `dirty`, `dvc_stage`, `dvc_lock`,
`weights_sha256`.
"""


def uri() -> str:
    """MLflow's store. Absolute, because MLflow resolves a relative sqlite path against each process's folder.

    Raises UserError for what is neither a server nor an SQLite database, or could hold a password or token, which
    MLflow prints in links and errors: so no part of it is repeated.
    """
    where = os.environ.get("MLFLOW_TRACKING_URI") or _local()
    if where == _local() and set("?%") & set(where):  # of which SQLite's address makes another path
        what = f"MLflow cannot keep a database below {folder().parent}, whose name has a ? or a %"
        raise UserError(what, "rename that folder, or name another database or a server by MLFLOW_TRACKING_URI")
    if not where.startswith(_SQLITE) and not re.fullmatch(r"https?://[^/?#@\s]+(/[^?#@\s]*)?", where):
        raise UserError(
            "MLFLOW_TRACKING_URI is neither the address of an MLflow server nor of an SQLite database",
            "http://HOST:PORT, https://HOST or sqlite:////ABSOLUTE/FILE.db, or unset it for tracking/; secrets go into "
            "MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD, or MLFLOW_TRACKING_TOKEN",
        )
    return where


def folder() -> Path:
    """Where the database of this checkout lies. `dvc exp run --temp` works in a copy below .dvc, and deletes that: its
    trainings are recorded where it was given."""
    here = Path.cwd()
    return next((parent.parent for parent in here.parents if parent.name == ".dvc"), here) / _FOLDER


def _local() -> str:
    return f"{_SQLITE}{folder() / 'mlflow.db'}"


def name() -> str:
    """The store as messages call it."""
    return f"{_FOLDER}/mlflow.db" if uri() == _local() else uri().partition("?")[0]


def page(address: str, experiment_id: str) -> str:
    """The list of runs on a server's web pages, with our columns."""
    return f"{address}/#/experiments/{experiment_id}/runs?workflowType=machine_learning&viewStateShareKey={_VIEW}"


def connect(paper: Paper) -> "tuple[MlflowClient, str]":
    """A client, and the id of the paper's experiment. Raises what MLflow raises when the store cannot be reached."""
    # MLflow's own 7 retries of up to 120 s would hold up whoever waits for the logger.
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "1")
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "10")
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
    os.environ.setdefault("MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT", "true")
    logging.getLogger("alembic").setLevel(logging.WARNING)  # it prints each of its forty migrations
    logging.getLogger("urllib3.connectionpool").setLevel(logging.ERROR)  # each attempt, before the error that we say
    where = uri()
    import mlflow
    from filelock import FileLock

    logging.getLogger("mlflow").setLevel(logging.WARNING)
    logging.getLogger("mlflow.system_metrics").setLevel(logging.CRITICAL)  # our own message says that a server is gone
    mlflow.set_tracking_uri(where)
    on_disk = where.startswith(_SQLITE)
    if on_disk:
        folder().mkdir(exist_ok=True)
    else:
        _need_new_server(where)
    # The client creates the tables of a database, where processes that do it at once fail.
    with FileLock(folder() / ".lock") if on_disk else nullcontext():
        client = mlflow.MlflowClient(where)
        return client, _experiment(client, paper, where == _local())


def _need_new_server(address: str) -> None:
    """Raise UserError for an MLflow before 3, which lacks half of what is asked of it. A server that does not tell is
    asked all the same."""
    import httpx

    with suppress(httpx.HTTPError):
        version = httpx.get(f"{address}/version", timeout=10).text.strip()
        if re.fullmatch(r"[0-2]\.\d+\.\S{1,20}", version):
            fix = "upgrade it (pip install 'mlflow>=3'), or unset MLFLOW_TRACKING_URI"
            raise UserError(f"the server at {address} is MLflow {version}, and 3 is needed", fix)


def _experiment(client: "MlflowClient", paper: Paper, local: bool) -> str:
    from mlflow.exceptions import MlflowException

    columns = ("metrics.`test_top1_error`", "tags.`tables`", "tags.`verdict`")  # the rest is in a run's name
    tags = {
        # What the web pages show first: runs and their metrics. Else they guess, and show traces of language models.
        "mlflow.experimentKind": "custom_model_development",
        "mlflow.note.content": _NOTE.format(title=paper.title, url=paper.url),
        f"mlflow.sharedViewState.{_VIEW}": json.dumps({"selectedColumns": columns}),
    }
    # Where those that users add go; another store knows its own place.
    artifacts = (folder() / "artifacts").as_uri() if local else None
    found = client.get_experiment_by_name(paper.slug)
    if found is None:
        try:
            return client.create_experiment(paper.slug, artifact_location=artifacts, tags=tags)
        except MlflowException:  # another process may have been faster
            if (found := client.get_experiment_by_name(paper.slug)) is None:
                raise
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
        if "database schema" in str(error):
            fix = f"back it up, then: mlflow db upgrade '{uri()}'"
        elif uri() == _local():
            fix = f"make {_FOLDER}/ writable, with room on its disk; a database that is broken: move {name()} away"
        else:
            other = "name another database" if uri().startswith(_SQLITE) else "start the server"
            fix = f"{other}, or unset MLFLOW_TRACKING_URI"
        raise UserError(f"MLflow's {name()} fails ({reason(error)})", f"{fix}, then: wrn-pipe track sync") from None


def reason(error: Exception) -> str:
    """One line on why MLflow failed."""
    text = error.what if isinstance(error, UserError) else str(error).partition(" Take a backup")[0]  # a remedy
    return shorten(text, 200, placeholder=" ...") or type(error).__name__


def tags_of(run_id: str, record: dict[str, Any], paper: Paper) -> dict[str, str]:
    """What MLflow is to say of a run by its run.json, which `record` is."""
    return {
        **{key: record[key] for key in ("fingerprint", "run", "dataset", "representation", "network")},
        "protocol": record["protocol_name"],
        "seed": str(record["seed"]),
        "tables": table_tag(claims_for(record["network"], record["dataset"], paper)),
        "dvc_stage": f"train@{run_id}",
        "device": f"{record['device']['type']}: {record['device']['name']}",
    }


def origin(run_id: str, head: str, dirty: bool | str) -> dict[str, str]:
    """The tags that say what a run was trained from; those with a prefix MLflow's own pages show as its source."""
    shown = {"mlflow.source.name": f"wrn-pipe stage train {run_id}", "mlflow.source.type": "LOCAL"}
    return {"commit": head, "dirty": str(dirty).lower(), "mlflow.source.git.commit": head, **shown}


def params_of(record: dict[str, Any]) -> dict[str, str]:
    """MLflow's parameters of a run, by its run.json."""
    params = flat(Protocol.model_validate(record["protocol"]).model_dump(mode="json"))
    params["peak_learning_rate"] = params.pop("learning_rate")  # the metric of that name is the rate of each epoch
    params |= {key: record[key] for key in ("network", "seed", "parameters", "loader", "kernels")}
    return {key: str(value) for key, value in params.items()}


def flat(values: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested values by their dotted keys."""
    found: dict[str, Any] = {}
    for key, value in values.items():
        found |= flat(value, f"{prefix}{key}.") if isinstance(value, dict) else {f"{prefix}{key}": value}
    return found


def claims_for(network: str, dataset: str, paper: Paper) -> list[Claim]:
    """The paper's claims that a training of this network on this dataset answers, in the paper's order."""
    wanted = "runnable", canonical(network), dataset
    return [claim for claim in paper.claims if (claim.kind, claim.network, claim.dataset) == wanted]


def table_tag(claims: Sequence[Claim]) -> str:
    """The tables of these claims: `4 5`. `no claim` when the paper prints no number for the run."""
    return " ".join(dict.fromkeys(claim.table for claim in claims)) or NO_CLAIM


class Mirror(RunLogger):
    """One training as one MLflow run, found by its fingerprint; all calls to MLflow are made by one thread, in order.

    It only appends epochs. What is missing or wrong then, pipeline/tracking/sync.py adds or replaces from the files.
    """

    def __init__(self, run_id: str, record: dict[str, Any], paper: Paper) -> None:
        self.run_id, self.record, self.paper, self.status = run_id, record, paper, "FINISHED"
        self.rows: queue.Queue[tuple[int, dict[str, float]] | None] = queue.Queue()
        self.logged: set[int] = set()
        """Epochs that MLflow has: a resumed training passes one again."""

    def epoch(self, row: "EpochRecord", rate: float) -> None:
        """Log an epoch's record and its training images per second at step = completed epochs."""
        values = {key: value for key, value in asdict(row).items() if key != "epoch" and value is not None}
        self.rows.put((row.epoch, values | {RATE: rate}))

    def work(self) -> None:
        """Log until the last row. The first failure is said, once, and ends it."""
        try:
            self._log()
        except Exception as error:  # noqa: BLE001 - whatever the server or its client raises, the training goes on
            say(f"MLflow is not recording {self.run_id} ({reason(error)}); {LATER}")

    def _log(self) -> None:
        client, experiment = connect(self.paper)
        from mlflow.entities import Metric, Param
        from mlflow.system_metrics.system_metrics_monitor import SystemMetricsMonitor

        tags = tags_of(self.run_id, self.record, self.paper) | origin(self.run_id, *commit())
        found = [run.info for run in runs_of(experiment, tags["fingerprint"]) if run.info.lifecycle_stage == "active"]
        if found:
            run = found[0].run_id
        else:
            run = client.create_run(experiment, run_name=self.run_id, tags=tags).info.run_id
            client.log_batch(run, params=[Param(*param) for param in params_of(self.record).items()])
        client.update_run(run, status="RUNNING")
        self.logged |= {metric.step for metric in client.get_metric_history(run, "train_loss")}
        watching: Any = SystemMetricsMonitor  # which has no types
        monitor = watching(run, resume_logging=True)  # system/..., here after the steps of an earlier attempt
        monitor.start()
        try:
            while (row := self.rows.get()) is not None:
                epoch, values = row
                if epoch not in self.logged:
                    now = int(time.time() * 1000)
                    client.log_batch(run, [Metric(key, value, now, epoch) for key, value in values.items()])
                    self.logged.add(epoch)
        finally:
            monitor.finish()
        client.set_terminated(run, self.status)


@contextmanager
def mirrored(run_id: str, record: dict[str, Any], paper: Paper) -> Iterator[RunLogger]:
    """Mirror the training that the block does. `record`: what run.json says."""
    mirror = Mirror(run_id, record, paper)
    patience = 120  # seconds: importing MLflow and making its database may be all that is left of a short training
    thread = threading.Thread(target=mirror.work, name="mlflow mirror", daemon=True)
    thread.start()
    try:
        yield mirror
    except BaseException as error:
        stopped = not isinstance(error, Exception) or hasattr(error, "signum")
        mirror.status, patience = "KILLED" if stopped else "FAILED", 30  # a scheduler may kill soon what does not end
        raise
    finally:
        mirror.rows.put(None)
        thread.join(patience)
        if thread.is_alive():
            say(f"MLflow did not answer within {patience} s while recording {run_id}; {LATER}")
