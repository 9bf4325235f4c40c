"""Makes MLflow hold of a finished run what its RunRecord says, and changes nothing that says so already."""

import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from pipeline.tracking.run_record import RunRecord
from pipeline.tracking.store import RATE

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import LoggedModel, Metric, Run

_BATCH = 1000
"""MLflow takes at most as many metrics in one call."""
_FIGURES = "figures"
"""Folder of a run's artifacts, and the tag that says what the pictures there were drawn from."""

Facts = Counter[tuple[str, str, int, str | float]]
"""What cannot be changed once MLflow has it: (kind, name, epochs completed, value)."""


@dataclass(frozen=True)
class Written:
    """What writing a record did."""

    run: str
    """MLflow's id of the run."""
    made: bool
    changes: tuple[str, ...]
    """In words; empty when all was there already."""
    measured: bool
    """Whether it holds images per second."""


def runs(experiments: list[str], fingerprint: str = "") -> "list[Run]":
    """All runs of these experiments, or those of one training, deleted ones included; the oldest first."""
    import mlflow
    from mlflow.entities import ViewType

    wanted = f"tags.fingerprint = '{fingerprint}'" if fingerprint else ""
    order = ["attributes.start_time ASC"]
    return mlflow.search_runs(experiments, wanted, ViewType.ALL, order_by=order, output_format="list")  # all pages


def write(client: "MlflowClient", experiment: str, record: RunRecord, found: "Sequence[Run]") -> Written:
    """Create, complete or replace the run that MLflow has in the records `found`.

    A record that holds anything else than the files is deleted, and the run written again, with a copy of what only
    the training could measure.
    """
    wanted, held, run, changes = _facts(record), Facts(), None, []
    for other in (other for other in found if other.info.lifecycle_stage == "active"):
        its = _held(client, other, record)
        wrong = sorted({name for _, name, *_ in its - wanted})
        if run is None and not wrong and other.info.experiment_id == experiment:
            run, held = other, its
        else:
            client.delete_run(other.info.run_id)
            changes.append(f"deleted its record with {'other ' + ', '.join(wrong) if wrong else 'the same content'}")
    made = run is None
    if run is None:
        before = max(reversed(found), key=lambda other: RATE in other.data.metrics, default=None)
        tags = record.origin | (before.data.tags if before else {}) | {_FIGURES: ""} | record.tags
        run = client.create_run(experiment, run_name=record.tags["run"], tags=tags)
        if before:
            _log_metrics(client, run, _measured(client, before, record))
        run = client.get_run(run.info.run_id)
    tags = {name: value for name, value in record.tags.items() if run.data.tags.get(name) != value}
    for name, value in tags.items():
        client.set_tag(run.info.run_id, name, value)
    changes += [f"tags {', '.join(sorted(tags))}"] if tags else []
    changes += _log_facts(client, run, record, wanted - held)
    changes += _log_dataset(client, run, record)
    changes += _log_figures(client, run, record)
    run = client.get_run(run.info.run_id)
    if run.info.status != "FINISHED":
        client.set_terminated(run.info.run_id)
        changes.append("status finished")
    return Written(run.info.run_id, made, tuple(changes), RATE in run.data.metrics)


def _facts(record: RunRecord) -> Facts:
    params = [("parameter", name, 0, value) for name, value in record.params.items()]
    points = [("value", name, *point) for name, points in record.metrics.items() for point in points.items()]
    return Facts([*params, *points, ("model", "weights", 0, record.digest)])


def _held(client: "MlflowClient", run: "Run", record: RunRecord) -> Facts:
    """Of what the record is about. A step that MLflow has twice counts twice."""
    facts = Facts(("parameter", name, 0, run.data.params[name]) for name in run.data.params.keys() & record.params)
    for name in run.data.metrics.keys() & record.metrics:
        facts.update(("value", name, m.step, m.value) for m in client.get_metric_history(run.info.run_id, name))
    facts.update(("model", "weights", 0, model.tags["sha256"]) for model in _models(client, run))
    return facts


def _models(client: "MlflowClient", run: "Run") -> "list[LoggedModel]":
    """Ours; a user may have registered others."""
    about = f"source_run_id = '{run.info.run_id}'"
    models = client.search_logged_models([run.info.experiment_id], filter_string=about)
    return [model for model in models if "sha256" in model.tags]


def _measured(client: "MlflowClient", run: "Run", record: RunRecord) -> "list[Metric]":
    """Images per second and the machine's load: what is in no file."""
    names = [name for name in run.data.metrics if name not in record.metrics and not name.startswith("test_")]
    return [metric for name in names for metric in client.get_metric_history(run.info.run_id, name)]


def _log_metrics(client: "MlflowClient", run: "Run", metrics: "Sequence[Metric]") -> None:
    for start in range(0, len(metrics), _BATCH):
        client.log_batch(run.info.run_id, metrics[start : start + _BATCH])


def _log_facts(client: "MlflowClient", run: "Run", record: RunRecord, missing: Facts) -> list[str]:
    """A LoggedModel holds the path and digest of the weights, not the weights."""
    import mlflow
    from mlflow.entities import LoggedModelOutput, Metric, Param

    key, now = run.info.run_id, int(time.time() * 1000)
    if params := [Param(name, str(value)) for kind, name, _, value in missing if kind == "parameter"]:
        client.log_batch(key, params=params)
    if any(kind == "model" for kind, *_ in missing):
        name, experiment = record.tags["run"], run.info.experiment_id
        tags = {"weights": record.weights.as_posix(), "sha256": record.digest, "format": "safetensors"}
        made = mlflow.create_external_model(name, key, tags, model_type="classifier", experiment_id=experiment)
        client.log_outputs(key, [LoggedModelOutput(made.model_id, step=0)])  # the run's page shows no others
    (model,) = _models(client, run)
    metrics = [
        # What was measured on the test split is the model's; the rest belongs to the training alone.
        Metric(name, float(value), now, step, model.model_id if name.startswith("test_") else None)
        for kind, name, step, value in missing
        if kind == "value"
    ]
    _log_metrics(client, run, metrics)
    return [f"{n} {kind}{'s' * (n > 1)}" for kind, n in sorted(Counter(kind for kind, *_ in missing).items())]


def _log_dataset(client: "MlflowClient", run: "Run", record: RunRecord) -> list[str]:
    from mlflow.entities import Dataset, DatasetInput, InputTag

    if record.dataset is None or (run.inputs and run.inputs.dataset_inputs):
        return []
    name, digest = record.dataset
    # MLflow keeps at most 36 characters of a digest, so the whole one is a tag.
    entity = Dataset(f"{name}-train", digest[:32], "local", f'{{"uri": "data/beton/{name}/train.beton"}}')
    tags = [InputTag("mlflow.data.context", "training"), InputTag("sha256", digest)]
    client.log_inputs(run.info.run_id, [DatasetInput(entity, tags)])
    return ["dataset"]


def _log_figures(client: "MlflowClient", run: "Run", record: RunRecord) -> list[str]:
    key = run.info.run_id
    if run.data.tags.get(_FIGURES) == record.drawn_from and client.list_artifacts(key, _FIGURES):
        return []
    for name, figure in record.draw().items():
        client.log_figure(key, figure, f"{_FIGURES}/{name}")
    client.set_tag(key, _FIGURES, record.drawn_from)
    return [_FIGURES]
