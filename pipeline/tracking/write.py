"""Makes MLflow's record of a run say what its Entry says, and changes nothing that says so already."""

import time
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from pipeline.tracking.run_record import Entry
from pipeline.tracking.store import RATE

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import LoggedModel, Run

_BATCH = 1000
"""MLflow takes at most so many metrics in one call."""
_FIGURES = "figures"
"""Folder of a run's artifacts, and the tag that says what the pictures there were drawn from."""

Steps = dict[str, list[tuple[int, float]]]
"""Metric -> (epochs completed, value) as MLflow holds them."""


@dataclass(frozen=True)
class Written:
    """What writing an Entry did."""

    run: str
    """MLflow's id of the run."""
    made: bool
    changes: tuple[str, ...]
    """In words; empty when all was there already."""
    measured: bool
    """Whether it holds images per second."""


def write(mlflow: "MlflowClient", where: str, entry: Entry) -> Written:
    """Make, complete or correct the run of `entry.fingerprint` in experiment `where`.

    MLflow cannot change a parameter, a metric or a model once it is logged. A run that holds others than the files
    is therefore deleted (MLflow keeps it among its deleted runs) and made anew, and so is one that holds a step twice.
    """
    changes = []
    run, held = None, Steps()
    for found in _all(mlflow, where, entry.fingerprint):
        its = _held(mlflow, found, entry)
        why = _contradiction(found, its, _model(mlflow, found), entry)
        if run is None and why is None:
            run, held = found, its
        elif found.info.lifecycle_stage == "active":
            mlflow.delete_run(found.info.run_id)
            changes.append(f"deleted its record with {why or 'the same content'}")
    made = run is None
    if run is None:
        run = mlflow.create_run(where, run_name=entry.run_id, tags=entry.tags | entry.origin)
    elif run.info.lifecycle_stage == "deleted":
        mlflow.restore_run(run.info.run_id)
        changes.append("restored it, which was deleted")
    key = run.info.run_id
    changes += _tags(mlflow, run, entry)
    changes += _params(mlflow, run, entry)
    changes += _dataset(mlflow, run, entry)
    if entry.weights:
        changes += register(mlflow, run, entry.run_id, *entry.weights)
        changes += _metrics(mlflow, run, held, entry)
        changes += _figures(mlflow, run, entry)
        if mlflow.get_run(key).info.status != "FINISHED":
            mlflow.set_terminated(key)
            changes.append("status finished")
    return Written(key, made, tuple(changes), RATE in run.data.metrics)


def _all(mlflow: "MlflowClient", where: str, fingerprint: str) -> "list[Run]":
    """The runs with this fingerprint: those that are shown before deleted ones, the oldest first."""
    from mlflow.entities import ViewType

    order = ["attributes.start_time ASC"]
    found = mlflow.search_runs([where], f"tags.fingerprint = '{fingerprint}'", ViewType.ALL, order_by=order)
    return sorted(found, key=lambda run: run.info.lifecycle_stage == "deleted")


def _held(mlflow: "MlflowClient", run: "Run", entry: Entry) -> Steps:
    wanted = [name for name in (*entry.metrics, RATE) if name in run.data.metrics]
    return {name: [(m.step, m.value) for m in mlflow.get_metric_history(run.info.run_id, name)] for name in wanted}


def _contradiction(run: "Run", held: Steps, model: "LoggedModel | None", entry: Entry) -> str | None:
    """What MLflow holds that the files do not say, and that it cannot change; None where there is nothing."""
    for name, value in entry.params.items():
        if run.data.params.get(name, value) != value:
            return f"another {name}"
    if model and entry.weights and model.tags.get("sha256") != entry.weights[1]:
        return "other weights"
    for name, points in held.items():
        if len({step for step, _ in points}) < len(points):
            return f"a step twice in {name}"
        if name in entry.metrics and not set(points) <= set(entry.metrics[name].items()):
            return f"another {name}"
    return None


def _tags(mlflow: "MlflowClient", run: "Run", entry: Entry) -> list[str]:
    wrong = {name: value for name, value in entry.tags.items() if run.data.tags.get(name) != value}
    wrong |= {name: value for name, value in entry.origin.items() if name not in run.data.tags}
    for name, value in wrong.items():
        mlflow.set_tag(run.info.run_id, name, value)
    return [f"tags {_list(wrong)}"] if wrong else []


def _params(mlflow: "MlflowClient", run: "Run", entry: Entry) -> list[str]:
    from mlflow.entities import Param

    missing = [Param(name, value) for name, value in entry.params.items() if name not in run.data.params]
    if missing:
        mlflow.log_batch(run.info.run_id, params=missing)
    return [f"{len(missing)} parameters"] if missing else []


def _dataset(mlflow: "MlflowClient", run: "Run", entry: Entry) -> list[str]:
    from mlflow.entities import Dataset, DatasetInput, InputTag

    if entry.dataset is None:
        return []
    name, digest = entry.dataset
    # MLflow keeps at most 36 characters of a digest, so the whole one is a tag.
    short = digest[:32]
    if run.inputs and any(known.dataset.digest == short for known in run.inputs.dataset_inputs):
        return []
    entity = Dataset(f"{name}-train", short, "local", f'{{"uri": "data/beton/{name}/train.beton"}}')
    tags = [InputTag("mlflow.data.context", "training"), InputTag("sha256", digest)]
    mlflow.log_inputs(run.info.run_id, [DatasetInput(entity, tags)])
    return ["dataset"]


def register(mlflow: "MlflowClient", run: "Run", name: str, path: Path, digest: str) -> list[str]:
    """Register the weights as a LoggedModel that holds their path and digest, not the weights."""
    if _model(mlflow, run):
        return []
    import mlflow as fluent
    from mlflow.entities import LoggedModelOutput

    tags = {"weights": path.as_posix(), "sha256": digest, "format": "safetensors"}
    at = run.info
    made = fluent.create_external_model(name, at.run_id, tags, model_type="classifier", experiment_id=at.experiment_id)
    mlflow.log_outputs(at.run_id, [LoggedModelOutput(made.model_id, step=0)])  # the run's page shows no others
    return ["model"]


def _model(mlflow: "MlflowClient", run: "Run") -> "LoggedModel | None":
    known = mlflow.search_logged_models([run.info.experiment_id], filter_string=f"source_run_id = '{run.info.run_id}'")
    return known[0] if known else None


def _metrics(mlflow: "MlflowClient", run: "Run", held: Steps, entry: Entry) -> list[str]:
    from mlflow.entities import Metric

    model = _model(mlflow, run)
    now = int(time.time() * 1000)
    missing = [
        # What was measured on the test split is the model's; the rest belongs to the training alone.
        Metric(name, value, now, step, model_id=model.model_id if model and name.startswith("test_") else None)
        for name, points in entry.metrics.items()
        for step, value in points.items()
        if (step, value) not in held.get(name, ())
    ]
    for start in range(0, len(missing), _BATCH):
        mlflow.log_batch(run.info.run_id, missing[start : start + _BATCH])
    return [f"{len(missing)} values of {_list({metric.key for metric in missing})}"] if missing else []


def _figures(mlflow: "MlflowClient", run: "Run", entry: Entry) -> list[str]:
    key = run.info.run_id
    there = {Path(item.path).name for item in mlflow.list_artifacts(key, _FIGURES)}
    if run.data.tags.get(_FIGURES) == entry.figures_from and there >= entry.figures.keys():
        return []
    for name, draw in entry.figures.items():
        mlflow.log_figure(key, draw(), f"{_FIGURES}/{name}")
    mlflow.set_tag(key, _FIGURES, entry.figures_from)
    return [_FIGURES]


def _list(words: Iterable[str]) -> str:
    return ", ".join(sorted(words))
