"""Makes MLflow hold of finished runs what their files say, as often as one likes.

A record that says anything else than the files is deleted, and the run written again.
"""

import json
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import nullcontext
from dataclasses import asdict, dataclass
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipeline.artifacts import BETON, EVALUATIONS, HISTORY, METRICS, MODELS, RECORD, WEIGHTS, read_history, read_record
from pipeline.comparison.cells import Cell, Comparison, cell_of, planned
from pipeline.comparison.formats.cell_text import MEANINGS, difference, ours, published, verdict
from pipeline.comparison.results import load_results
from pipeline.data.beton import content, open_card
from pipeline.data.beton import sha256 as digest_of
from pipeline.data.digest import file_digest
from pipeline.dvc_lock import read as read_lock
from pipeline.errors import UserError
from pipeline.params import Plan
from pipeline.progress import progress, say
from pipeline.provenance import commit, fingerprint
from pipeline.publication.claims import Claim
from pipeline.publication.paper import Paper
from pipeline.tracking import mlflow_logger
from pipeline.tracking.mlflow_logger import NO_CLAIM, RATE, claims_for

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Metric, Run

SAME = "as it was"
"""Begins the line of a run that the store has whole."""
_BATCH = 1000
"""MLflow takes at most as many metrics in one call."""
Facts = Counter[tuple[str, str, int, str | float]]
"""What MLflow cannot change: (kind, name, epochs completed, value). A step logged twice counts twice."""


@dataclass(frozen=True)
class RunRecord:
    """One finished run as its page is to show it."""

    tags: dict[str, str]
    """What always follows the files."""
    origin: dict[str, str]
    """Tags that are said once, when the run is first recorded: what it was trained from."""
    params: dict[str, str]
    metrics: dict[str, dict[int, float]]
    """Name -> epochs completed -> value."""
    dataset: tuple[str, str] | None
    """Name of the representation and full digest of its training split; None where the data is not here."""

    @property
    def facts(self) -> Facts:
        facts = Facts(("parameter", key, 0, value) for key, value in self.params.items())
        for key, points in self.metrics.items():
            facts.update(("value", key, *point) for point in points.items())
        return facts

    def says(self, metric: str) -> bool:
        """Whether it is the files that say it: not so images per second and the machine's load."""
        return metric in self.metrics or metric.startswith("test_")


def sync_all(paper: Paper, plan: Plan, tell: Callable[[str], None]) -> dict[str, Any]:
    """Record every finished training of the plan, and `tell` line by line what was done; returns the same for programs.

    Raises UserError when a file of a run is broken or MLflow fails. What was written until then stays, and the next
    sync goes on from there.
    """
    trained = [run for run in plan.runs if (MODELS / run / WEIGHTS).exists()]
    lines: list[dict[str, Any]] = []
    with mlflow_logger.explained():
        for run_id, done, changes in _written(paper, plan, trained):
            lines.append({"run": run_id, "done": done, "changes": changes})
            tell(f"{done:<10}{run_id}{': ' * bool(changes)}{'; '.join(changes)}")
    store, absent = mlflow_logger.name(), len(plan.runs) - len(lines)
    counted = sorted(Counter(line["done"] for line in lines).items())
    told = ", ".join(f"{n} {'as they were' if done == SAME and n > 1 else done}" for done, n in counted)
    tell(f"{store}: {told or 'no finished training'}{f'; {absent} of the plan without files' * bool(absent)}")
    return {"store": store, "runs": lines, "not_trained": absent}


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
        say(f"MLflow is not recording {what} ({mlflow_logger.reason(error)}); {mlflow_logger.LATER}")


def _written(paper: Paper, plan: Plan, run_ids: Iterable[str]) -> Iterator[tuple[str, str, list[str]]]:
    """Bring the records of runs up to date: of each its id, `made`, `changed` or SAME, and what was changed."""
    records = finished(paper, plan, run_ids)
    client, experiment = mlflow_logger.connect(paper)
    for run_id, record in records.items():
        yield run_id, *_write(client, experiment, record)


def finished(paper: Paper, plan: Plan, run_ids: Iterable[str]) -> dict[str, RunRecord]:
    """Runs as models/<run> and, once they are evaluated, evaluations/<run> describe them.

    Raises UserError for a file that is broken or missing.
    """
    of = planned(paper, plan, load_results(Path()))
    locked, here = read_lock(), commit()
    records = {}
    for run_id in run_ids:
        try:
            records[run_id] = _finished(run_id, of, locked.get(f"train@{run_id}"), here)
        except (OSError, ValueError, KeyError, TypeError) as error:
            fix = f"wrn-pipe verify names the broken file; then wrn-pipe repro {run_id}"
            raise UserError(f"the files of {run_id} cannot be read ({error!r})", fix) from None
    return records


def _finished(run_id: str, of: Comparison, locked: dict[str, Any] | None, here: tuple[str, bool | str]) -> RunRecord:
    folder, again = MODELS / run_id, f"wrn-pipe repro {run_id}"
    record, weights = read_record(folder / RECORD, again), folder / WEIGHTS
    rows = [asdict(row) for row in read_history(folder / HISTORY, again)]
    names = [name for name in rows[0] if name != "epoch"]
    metrics = {name: {row["epoch"]: row[name] for row in rows if row[name] is not None} for name in names}
    about, note = "not evaluated", f"Trained, not evaluated: `wrn-pipe repro evaluate@{run_id}`."
    if any(r.run == run_id and r.record.fingerprint == record["fingerprint"] for r in of.results):
        values = read_record(EVALUATIONS / run_id / METRICS, again)
        numbers = {key: value for key, value in values.items() if isinstance(value, int | float)}
        for key in numbers.keys() - {"errors", "n"}:  # which are behind the error, and would only crowd the page
            metrics[f"test_{key}"] = {record["epochs"]: numbers[key]}
        about, note = judged(run_id, claims_for(record["network"], record["dataset"], of.paper), of)
    note += f"\n\nWeights: `{weights.as_posix()}`. Everything again: `{again}`."
    tags = {"verdict": about, "mlflow.note.content": note}
    tags |= {"weights_sha256": digest_of(weights), "dvc_lock": _locked(locked, weights)}
    # The checked-out commit is said of files that its code and settings would make again.
    own = fingerprint(of.plan, run_id) == record["fingerprint"]
    data = BETON / f"{record['dataset']}-{record['representation']}"
    return RunRecord(
        tags=mlflow_logger.tags_of(run_id, record, of.paper) | tags,
        origin=mlflow_logger.origin(run_id, *(here if own else ("unknown", "unknown"))),
        params=mlflow_logger.params_of(record),
        metrics=metrics,
        dataset=(data.name, content(open_card(data), "train")) if data.exists() else None,
    )


def _locked(entry: dict[str, Any] | None, weights: Path) -> str:
    """sha256 of a stage's entry in dvc.lock; `other weights` where that is not about these, `none` without one."""
    if entry is None:
        return "none"
    if file_digest(weights, "md5") not in [out["md5"] for out in entry["outs"]]:
        return "other weights"
    return sha256(json.dumps(entry, sort_keys=True).encode()).hexdigest()


def judged(run_id: str, claims: Sequence[Claim], of: Comparison) -> tuple[str, str]:
    """A run's verdict tag and its note in Markdown.

    The tag names each verdict once: a run answers the same question for several tables, and seldom differently.
    """
    if not claims:
        return NO_CLAIM, "The paper prints no number for this network on this dataset."
    words, parts, deviations = [], [], []
    for cell in (cell_of(claim, of) for claim in claims):
        left_out = next((excluded.reason for excluded in cell.excluded if excluded.run == run_id), None)
        words.append(f"left out ({left_out})" if left_out else str(cell.verdict))
        if cell.ours:
            parts.append(_sentence(cell, of.paper) + (f" This run is left out: {left_out}." if left_out else ""))
        if run_id in cell.runs:
            deviations += [f"- {deviation} ({deviation.reason})" for deviation in cell.deviations]
    if deviations:
        parts.append("\n".join(["Differs from the paper's protocol in:", *dict.fromkeys(deviations)]))
    return ", ".join(dict.fromkeys(words)), "\n\n".join(parts)


def _sentence(cell: Cell, paper: Paper) -> str:
    table, dataset, metric = paper.tables[cell.table], paper.datasets[cell.dataset], paper.metrics[cell.metric]
    where = f"{table.partition(':')[0]}, {cell.model} on {dataset}, {metric}"
    numbers = f"the paper {published(cell)}, ours {ours(cell)}, difference {difference(cell)}"
    meaning = MEANINGS[str(cell.verdict)].partition("; the letters")[0]  # there are none in a note
    return f"**{verdict(cell)}** - {where}: {numbers}. {meaning[0].upper()}{meaning[1:]}."


def _write(client: "MlflowClient", experiment: str, record: RunRecord) -> tuple[str, list[str]]:
    found = mlflow_logger.runs_of(experiment, record.tags["fingerprint"])
    run, held = None, Facts()
    for other in found:
        if other.info.lifecycle_stage == "active":
            its = _held(client, other, record)
            if run is None and its <= record.facts:
                run, held = other, its
            else:
                client.delete_run(other.info.run_id)
    if run is None:
        _log(client, _create(client, experiment, record, found), record, record.facts)
        return "made", []
    changes = _log(client, run, record, record.facts - held)
    return "changed" if changes else SAME, changes


def _held(client: "MlflowClient", run: "Run", record: RunRecord) -> Facts:
    """Of what the files could say; a user may have added to it."""
    facts = Facts(("parameter", key, 0, run.data.params[key]) for key in run.data.params.keys() & record.params)
    for key in filter(record.says, run.data.metrics):
        facts.update(("value", key, m.step, m.value) for m in client.get_metric_history(run.info.run_id, key))
    return facts


def _create(client: "MlflowClient", experiment: str, record: RunRecord, found: "Sequence[Run]") -> "Run":
    """A new run, with a copy of what only the training could measure from the newest record that has it."""
    before = next((run for run in reversed(found) if RATE in run.data.metrics), None)
    tags = record.origin | (before.data.tags if before else {}) | record.tags
    run = client.create_run(experiment, run_name=record.tags["run"], tags=tags)
    if before:
        for key in before.data.metrics:
            if not record.says(key):
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
