"""MLflow shows a training while it goes on. A tracking server that fails never hurts a training."""

import queue
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from pipeline.progress import say
from pipeline.publication.paper import Paper
from pipeline.tracking.store import LATER, RATE, connect, reason, runs_of
from pipeline.training.hooks import RunLogger

if TYPE_CHECKING:
    from pipeline.artifacts import EpochRecord

_CLOSING_S, _STOPPING_S = 120.0, 30.0
"""How long to wait for MLflow at the end, where importing it and making its database may be all that is left of a short
training, and after a signal, when a scheduler may kill soon what does not end."""


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

        from pipeline.tracking.run_record import started

        tags, params = started(self.run_id, self.record, self.paper)
        found = [run.info for run in runs_of(experiment, tags["fingerprint"]) if run.info.lifecycle_stage == "active"]
        if found:
            run = found[0].run_id
        else:
            run = client.create_run(experiment, run_name=self.run_id, tags=tags).info.run_id
            client.log_batch(run, params=[Param(name, value) for name, value in params.items()])
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
    mirror, patience = Mirror(run_id, record, paper), _CLOSING_S
    thread = threading.Thread(target=mirror.work, name="mlflow mirror", daemon=True)
    thread.start()
    try:
        yield mirror
    except BaseException as error:
        stopped = not isinstance(error, Exception) or hasattr(error, "signum")
        mirror.status, patience = "KILLED" if stopped else "FAILED", _STOPPING_S
        raise
    finally:
        mirror.rows.put(None)
        thread.join(patience)
        if thread.is_alive():
            say(f"MLflow did not answer within {patience:.0f} s while recording {run_id}; {LATER}")
