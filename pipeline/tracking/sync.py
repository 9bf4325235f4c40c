"""Makes MLflow hold of finished runs what their files say, as often as one likes.

A record that says anything else than the files is deleted, and the run written again.
"""

import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipeline.params import Plan
from pipeline.progress import progress, say
from pipeline.publication.paper import Paper
from pipeline.tracking.run_record import RunRecord, finished
from pipeline.tracking.store import LATER, RATE, connect, explained, name, reason, runs_of

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Metric, Run

SAME = "as it was"
"""Begins the line of a run that the store has whole."""
_BATCH = 1000
"""MLflow takes at most as many metrics in one call."""
Facts = Counter[tuple[str, str, int, str | float]]
"""What MLflow cannot change: (kind, name, epochs completed, value). A step logged twice counts twice."""


def sync_all(paper: Paper, plan: Plan, tell: Callable[[str], None]) -> dict[str, Any]:
    """Record every finished training of the plan, and `tell` line by line what was done; returns the same for programs.

    Raises UserError when a file of a run is broken or MLflow fails. What was written until then stays, and the next
    sync goes on from there.
    """
    trained = [run for run in plan.runs if (Path("models") / run / "model.safetensors").exists()]
    lines: list[dict[str, Any]] = []
    with explained():
        for run_id, done, changes in _written(paper, plan, trained):
            lines.append({"run": run_id, "done": done, "changes": changes})
            tell(f"{done:<10}{run_id}{': ' * bool(changes)}{'; '.join(changes)}")
    counted = sorted(Counter(line["done"] for line in lines).items())
    told = ", ".join(f"{n} {'as they were' if done == SAME and n > 1 else done}" for done, n in counted)
    absent = len(plan.runs) - len(lines)
    tell(f"{name()}: {told or 'no finished training'}{f'; {absent} of the plan without files' * bool(absent)}")
    return {"store": name(), "runs": lines, "not_trained": absent}


def log_runs(paper: Paper, plan: Plan, finished_runs: Sequence[str]) -> None:
    """Record runs whose files were just published, by their ids. Failures are said, not raised."""
    several = len(finished_runs) > 1
    try:
        with progress("MLflow", len(finished_runs), "runs") if several else nullcontext() as task:
            for _ in _written(paper, plan, finished_runs):
                if task:
                    task.advance()
    except Exception as error:  # noqa: BLE001 - the files are complete without MLflow
        what = f"{len(finished_runs)} published runs" if several else "".join(finished_runs)
        say(f"MLflow is not recording {what} ({reason(error)}); {LATER}")


def _written(paper: Paper, plan: Plan, run_ids: Iterable[str]) -> Iterator[tuple[str, str, list[str]]]:
    """Bring the records of runs up to date: of each its id, `made`, `changed` or SAME, and what was changed."""
    records = finished(paper, plan, run_ids)
    client, experiment = connect(paper)
    for run_id, record in records.items():
        yield run_id, *_write(client, experiment, record)


def _write(client: "MlflowClient", experiment: str, record: RunRecord) -> tuple[str, list[str]]:
    found, wanted = runs_of(experiment, record.tags["fingerprint"]), _facts(record)
    run, held = None, Facts()
    for other in found:
        if other.info.lifecycle_stage == "active":
            its = _held(client, other, record)
            if run is None and its <= wanted:
                run, held = other, its
            else:
                client.delete_run(other.info.run_id)
    if run is None:
        _log(client, _create(client, experiment, record, found), record, wanted)
        return "made", []
    changes = _log(client, run, record, wanted - held)
    return ("changed", changes) if changes else (SAME, [])


def _facts(record: RunRecord) -> Facts:
    params = [("parameter", key, 0, value) for key, value in record.params.items()]
    return Facts(
        [*params, *(("value", key, *point) for key in record.metrics for point in record.metrics[key].items())]
    )


def _held(client: "MlflowClient", run: "Run", record: RunRecord) -> Facts:
    """Of what the files could say; a user may have added to it."""
    facts = Facts(("parameter", key, 0, run.data.params[key]) for key in run.data.params.keys() & record.params)
    for key in run.data.metrics:
        if _in_files(key, record):
            facts.update(("value", key, m.step, m.value) for m in client.get_metric_history(run.info.run_id, key))
    return facts


def _in_files(metric: str, record: RunRecord) -> bool:
    """Not so images per second and the machine's load."""
    return metric in record.metrics or metric.startswith("test_")


def _create(client: "MlflowClient", experiment: str, record: RunRecord, found: "Sequence[Run]") -> "Run":
    """A new run, with a copy of what only the training could measure from the newest record that has it."""
    before = next((run for run in reversed(found) if RATE in run.data.metrics), None)
    tags = record.origin | (before.data.tags if before else {}) | record.tags
    run = client.create_run(experiment, run_name=record.tags["run"], tags=tags)
    if before:
        for key in before.data.metrics:
            if not _in_files(key, record):
                _log_metrics(client, run, client.get_metric_history(before.info.run_id, key))
    return client.get_run(run.info.run_id)


def _log_metrics(client: "MlflowClient", run: "Run", metrics: "Sequence[Metric]") -> None:
    for start in range(0, len(metrics), _BATCH):
        client.log_batch(run.info.run_id, metrics[start : start + _BATCH])


def _log(client: "MlflowClient", run: "Run", record: RunRecord, missing: Facts) -> list[str]:
    """Add to a run what it lacks, and set tags and status right; returns that in words."""
    from mlflow.entities import Dataset, DatasetInput, InputTag, Metric, Param

    key, now = run.info.run_id, int(time.time() * 1000)
    tags = {tag: value for tag, value in record.tags.items() if run.data.tags.get(tag) != value}
    for tag, value in tags.items():
        client.set_tag(key, tag, value)
    client.log_batch(key, params=[Param(each, str(value)) for kind, each, _, value in missing if kind == "parameter"])
    points = [(each, float(value), step) for kind, each, step, value in missing if kind == "value"]
    _log_metrics(client, run, [Metric(each, value, now, step) for each, value, step in points])
    changes = [f"tags {', '.join(sorted(tags))}"] if tags else []
    changes += [f"{n} {kind}{'s' * (n > 1)}" for kind, n in sorted(Counter(kind for kind, *_ in missing).items())]
    if record.dataset and not (run.inputs and run.inputs.dataset_inputs):
        data, digest = record.dataset
        # MLflow keeps at most 36 characters of a digest, so the whole one is a tag.
        entity = Dataset(f"{data}-train", digest[:32], "local", f'{{"uri": "data/beton/{data}/train.beton"}}')
        about = [InputTag("mlflow.data.context", "training"), InputTag("sha256", digest)]
        client.log_inputs(key, [DatasetInput(entity, about)])
        changes.append("dataset")
    if run.info.status != "FINISHED":
        client.set_terminated(key)
        changes.append("status finished")
    return changes
