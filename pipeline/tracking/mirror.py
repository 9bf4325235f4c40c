"""MLflow shows what the files say. The files are the truth: a tracking server that fails never hurts a training."""

import queue
import threading
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

from pipeline.progress import say
from pipeline.provenance import commit
from pipeline.tracking.store import client, experiment, reason
from pipeline.training.checkpoints import EpochRecord

if TYPE_CHECKING:
    from mlflow import MlflowClient

FINGERPRINT = "fingerprint"
_CLOSING_SECONDS = 30.0


class Mirror:
    """One training as one MLflow run, found by its fingerprint. Works in a thread of its own, in order.

    The first failure is said once and ends the mirroring; the training does not notice.
    """

    def __init__(self, run_id: str, record: dict[str, Any], machine: dict[str, str] | None = None) -> None:
        """`record`: what run.json says. `machine`: tags of what only this machine knows, which no file keeps."""
        self.run_id, self.record, self.machine = run_id, record, machine or {}
        self.jobs: queue.Queue[Callable[[MlflowClient, str], None] | None] = queue.Queue()
        self.status = "FINISHED"
        self.thread = threading.Thread(target=self._work, name="mlflow mirror", daemon=True)

    def __enter__(self) -> Self:
        self.thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is not None:
            self.status = "FAILED" if issubclass(kind, Exception) and not hasattr(error, "signum") else "KILLED"
        self.jobs.put(None)
        self.thread.join(_CLOSING_SECONDS)
        if self.thread.is_alive():
            say(f"MLflow did not answer within {_CLOSING_SECONDS:.0f} s; {self.run_id} is complete on disk")

    def epoch(self, row: EpochRecord, rate: float) -> None:
        """Log an epoch's record and its training images per second at step = completed epochs."""
        values = {
            "learning_rate": row.learning_rate,
            "train_loss": row.train_loss,
            "train_error": row.train_error,
            "images_per_second": rate,
        }

        def job(mlflow: "MlflowClient", run: str) -> None:
            logged = {m.step for m in mlflow.get_metric_history(run, "train_loss")}
            if row.epoch not in logged:  # a resumed training may pass an epoch again
                for key, value in values.items():
                    mlflow.log_metric(run, key, value, step=row.epoch)

        self.jobs.put(job)

    def model(self, path: Path) -> None:
        """Register the weights as a LoggedModel that points to DVC's file."""

        def job(mlflow: "MlflowClient", run: str) -> None:
            register_model(mlflow, run, self.run_id, path)

        self.jobs.put(job)

    def _work(self) -> None:
        try:
            mlflow = client()
            run = find_or_create(mlflow, self.run_id, self.record)
            for key, value in self.machine.items():
                mlflow.set_tag(run, key, value)
            while (job := self.jobs.get()) is not None:
                job(mlflow, run)
            mlflow.set_terminated(run, self.status)
        except Exception as error:  # noqa: BLE001 - whatever the server or its client raises, the training goes on
            say(f"MLflow is not recording {self.run_id} ({reason(error)}); its files are complete without")


def find_or_create(mlflow: "MlflowClient", run_id: str, record: dict[str, Any]) -> str:
    """MLflow's id of the run with the record's fingerprint."""
    from mlflow.entities import DatasetInput, InputTag

    where = experiment(mlflow)
    found = mlflow.search_runs([where], f"tags.{FINGERPRINT} = '{record['fingerprint']}'", max_results=1)
    if found:
        run = found[0].info.run_id
        mlflow.update_run(run, status="RUNNING")
        return str(run)
    head, dirty = commit()
    tags = {
        FINGERPRINT: record["fingerprint"],
        "run": run_id,
        "dataset": record["dataset"],
        "representation": record["representation"],
        "network": record["network"],
        "protocol": record["protocol_name"],
        "seed": str(record["seed"]),
        "dvc.stage": f"train@{run_id}",
        "git.commit": head,
        "git.dirty": str(dirty).lower(),
        "device": f"{record['device']['type']}: {record['device']['name']}",
    }
    run = str(mlflow.create_run(where, run_name=run_id, tags=tags).info.run_id)
    for key, value in sorted(_flat(record["protocol"]).items()):
        mlflow.log_param(run, key, value)
    for key in ("network", "seed", "parameters", "loader"):
        mlflow.log_param(run, key, record[key])
    for entity, tag in _datasets(record):
        mlflow.log_inputs(run, [DatasetInput(entity, [InputTag("mlflow.data.context", "training"), *tag])])
    return run


def _datasets(record: dict[str, Any]) -> list[tuple[Any, list[Any]]]:
    from mlflow.entities import Dataset, InputTag

    from pipeline.loading.beton import open_card

    folder = Path("data/beton") / f"{record['dataset']}-{record['representation']}"
    digest = open_card(folder)["splits"]["train"]["digest"]
    # MLflow keeps at most 36 characters of a digest, so the whole one is a tag.
    entity = Dataset(f"{folder.name}-train", digest[:32], "local", f'{{"uri": "{folder.as_posix()}/train.beton"}}')
    return [(entity, [InputTag("sha256", digest)])]


def register_model(mlflow: "MlflowClient", run: str, run_id: str, path: Path) -> None:
    """Make the LoggedModel of a run once. It holds the path and digest of the weights, not the weights."""
    from pipeline.loading.beton import sha256

    where = mlflow.get_run(run).info.experiment_id
    known = mlflow.search_logged_models([where], filter_string=f"source_run_id = '{run}'")
    if known:
        return
    import mlflow as fluent

    tags = {"weights": path.as_posix(), "sha256": sha256(path), "format": "safetensors"}
    fluent.create_external_model(
        name=run_id, source_run_id=run, experiment_id=where, tags=tags, model_type="classifier"
    )


def log_evaluation(run_id: str, fingerprint: str, values: dict[str, float]) -> None:
    """Add the test metrics to the run with this fingerprint and to its LoggedModel; failures are said, not raised."""
    try:
        mlflow = client()
        where = experiment(mlflow)
        found = mlflow.search_runs([where], f"tags.{FINGERPRINT} = '{fingerprint}'", max_results=1)
        if not found:
            say(f"MLflow has no run of {run_id}: its training was not recorded there")
            return
        run = found[0].info.run_id
        models = mlflow.search_logged_models([where], filter_string=f"source_run_id = '{run}'")
        model = models[0].model_id if models else None
        for key, value in values.items():
            if f"test_{key}" not in found[0].data.metrics:
                mlflow.log_metric(run, f"test_{key}", value, model_id=model)
    except Exception as error:  # noqa: BLE001 - the evaluation's files are complete without MLflow
        say(f"MLflow is not recording the evaluation of {run_id} ({reason(error)})")


def _flat(values: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in values.items():
        flat |= _flat(value, f"{prefix}{key}.") if isinstance(value, dict) else {f"{prefix}{key}": value}
    return flat
