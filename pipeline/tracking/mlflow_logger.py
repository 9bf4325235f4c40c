"""MLflow shows what the files say. The files are the truth: a tracking server that fails never hurts a training."""

import queue
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

from pipeline.progress import say
from pipeline.tracking.store import LATER, RATE, client, experiment, reason
from pipeline.training.hooks import RunLogger

if TYPE_CHECKING:
    from mlflow import MlflowClient

    from pipeline.training.checkpoints import EpochRecord

_CLOSING_S, _STOPPING_S = 120.0, 30.0
"""How long to wait for MLflow at the end, where importing it and making its database may be all that is left of a short
training, and after a signal, when a scheduler may kill soon what does not end."""


class Mirror(RunLogger):
    """One training as one MLflow run, found by its fingerprint. Works in a thread of its own, in order.

    The first failure is said once and ends the mirroring; the training does not notice. Meanwhile MLflow's own monitor
    records the machine (system/...): at the end, and every ten seconds or MLFLOW_SYSTEM_METRICS_SAMPLING_INTERVAL.
    """

    def __init__(self, run_id: str, record: dict[str, Any]) -> None:
        """`record`: what run.json says."""
        self.run_id, self.record = run_id, record
        self.jobs: queue.Queue[Callable[[MlflowClient, str], None] | None] = queue.Queue()
        self.status = "FINISHED"
        self.logged: set[int] = set()
        """Epochs that MLflow has: a resumed training passes one again."""
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
        patience = _CLOSING_S if kind is None else _STOPPING_S
        self.thread.join(patience)
        if self.thread.is_alive():
            say(f"MLflow did not answer within {patience:.0f} s while recording {self.run_id}; {LATER}")

    def epoch(self, row: "EpochRecord", rate: float) -> None:
        """Log an epoch's record and its training images per second at step = completed epochs."""
        values = {k: v for k, v in asdict(row).items() if k != "epoch" and v is not None} | {RATE: rate}
        now = int(time.time() * 1000)

        def job(mlflow: "MlflowClient", run: str) -> None:
            from mlflow.entities import Metric

            if row.epoch not in self.logged:
                mlflow.log_batch(run, [Metric(key, value, now, row.epoch) for key, value in values.items()])
                self.logged.add(row.epoch)

        self.jobs.put(job)

    def model(self, path: Path) -> None:
        """Register the weights as a LoggedModel that points to DVC's file."""

        def job(mlflow: "MlflowClient", run: str) -> None:
            from pipeline.data.beton import sha256
            from pipeline.tracking.write import register

            register(mlflow, mlflow.get_run(run), self.run_id, path, sha256(path))

        self.jobs.put(job)

    def _work(self) -> None:
        try:
            from pipeline.tracking.run_record import started
            from pipeline.tracking.write import write

            mlflow = client()
            run = write(mlflow, experiment(mlflow), started(self.run_id, self.record)).run
            mlflow.update_run(run, status="RUNNING")
            self.logged |= {metric.step for metric in mlflow.get_metric_history(run, "train_loss")}
            with _watching_machine(run):
                while (job := self.jobs.get()) is not None:
                    job(mlflow, run)
            mlflow.set_terminated(run, self.status)
        except Exception as error:  # noqa: BLE001 - whatever the server or its client raises, the training goes on
            say(f"MLflow is not recording {self.run_id} ({reason(error)}); {LATER}")


@contextmanager
def _watching_machine(run: str) -> Iterator[None]:
    from mlflow.system_metrics.system_metrics_monitor import SystemMetricsMonitor

    monitor: Any = SystemMetricsMonitor  # it has no types
    monitor = monitor(run, resume_logging=True)  # after the steps of an earlier attempt
    monitor.start()
    try:
        yield
    finally:
        monitor.finish()  # which drops what it measured since its last record: all of it, where the run was that short
        monitor.collect_metrics()
        monitor.publish_metrics(monitor.aggregate_metrics())
        monitor.mlflow_logger.flush()
