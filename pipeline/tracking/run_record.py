"""What MLflow is to hold of one run, worked out from files and settings alone. Nothing here talks to MLflow."""

import csv
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from hashlib import file_digest, sha256
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import ValidationError

from pipeline.comparison.results import Record, Result, load_results
from pipeline.data.beton import mend, open_card
from pipeline.data.beton import sha256 as digest_of
from pipeline.dvc_lock import read as read_lock
from pipeline.errors import UserError
from pipeline.params import Plan, Protocol
from pipeline.provenance import commit, fingerprint
from pipeline.tasks.predictions import read
from pipeline.tracking import run_figures
from pipeline.tracking.verdict_tags import claims_for, judged, table_tag
from pipeline.training.run_digests import content

if TYPE_CHECKING:
    from matplotlib.figure import Figure

UNKNOWN = "unknown"
_COUNTS = {"errors", "n"}
"""Of metrics.json, behind the error; as charts they would only crowd the page."""


@dataclass(frozen=True)
class Entry:
    """One run as its page is to show it."""

    run_id: str
    fingerprint: str
    tags: dict[str, str]
    """What always follows the files."""
    origin: dict[str, str]
    """Tags that are said once, when the run is first recorded: what it was trained from."""
    params: dict[str, str]
    metrics: dict[str, dict[int, float]] = field(default_factory=dict)
    """Name -> epochs completed -> value."""
    dataset: tuple[str, str] | None = None
    """Name of the representation and full digest of its training split; None where the data is not here."""
    weights: tuple[Path, str] | None = None
    """model.safetensors and its sha256."""
    figures: dict[str, Callable[[], "Figure"]] = field(default_factory=dict)
    """File name -> how to draw it."""
    figures_from: str = ""
    """Digest of all that the figures are drawn from, their code included."""


def started(run_id: str, record: dict[str, Any]) -> Entry:
    """A run whose training starts here and now, from what run.json will say of it."""
    head, dirty = commit()
    return Entry(
        run_id,
        record["fingerprint"],
        _tags(run_id, record),
        _origin(head, str(dirty).lower(), run_id),
        _params(record),
        dataset=_dataset(record),
    )


@dataclass(frozen=True)
class Checkout:
    """What lies here beside the runs' files, read once for all of them."""

    plan: Plan
    results: Sequence[Result]
    """All finished runs of the plan, for the verdicts."""
    locked: dict[str, Any]
    """Stage -> its entry in dvc.lock."""
    commit: str
    dirty: bool


def checkout(plan: Plan) -> Checkout:
    """As it is now. Raises UserError for a result that is broken."""
    results = [result for result in load_results(Path()) if result.run in plan.runs]
    return Checkout(plan, results, read_lock(), *commit())


def finished(run_id: str, here: Checkout) -> Entry:
    """A run as models/<run> and, once it is evaluated, evaluations/<run> describe it. Needs models/<run>/run.json.

    Raises UserError for a file that is broken.
    """
    try:
        return _finished(run_id, here)
    except FileNotFoundError as error:
        raise UserError(f"{error.filename} not found", f"wrn-pipe repro {run_id}") from None


def _finished(run_id: str, here: Checkout) -> Entry:
    folder = Path("models") / run_id
    record = _record(folder / "run.json", run_id)
    weights, evaluated = folder / "model.safetensors", Path("evaluations") / run_id
    metrics = _history(folder / "history.csv", record["epochs"], run_id)
    about = next((r for r in here.results if r.run == run_id and r.record.fingerprint == record["fingerprint"]), None)
    tags = _tags(run_id, record) | {"dvc_lock": _locked(here.locked.get(f"train@{run_id}"), weights)}
    drawn, drawn_from = _figures(record, folder / "history.csv", evaluated if about else None)
    claims = claims_for(record["network"], record["dataset"])
    if about:
        values = json.loads((evaluated / "metrics.json").read_text(encoding="utf-8"))
        for key, value in values.items():
            if isinstance(value, int | float) and key not in _COUNTS:
                metrics[f"test_{key}"] = {record["epochs"]: value}
        tags["verdict"], note = judged(run_id, claims, here.plan, here.results)
    else:
        tags["verdict"], note = "not evaluated", f"Trained, not evaluated: `wrn-pipe repro evaluate@{run_id}`."
    note += f"\n\nWeights: `{weights.as_posix()}`. Everything again: `wrn-pipe repro {run_id}`."
    tags["mlflow.note.content"] = note
    return Entry(
        run_id,
        record["fingerprint"],
        tags,
        _found_origin(here, run_id, record),
        _params(record),
        metrics,
        _dataset(record),
        (weights, digest_of(weights)),
        drawn,
        drawn_from,
    )


def _record(path: Path, run_id: str) -> dict[str, Any]:
    text = path.read_text(encoding="utf-8")
    try:
        Record.model_validate_json(text)
    except ValidationError as error:
        first = error.errors()[0]
        field = ".".join(map(str, first["loc"]))
        raise UserError(f"{path}: {field + ': ' if field else ''}{first['msg']}", f"wrn-pipe repro {run_id}") from None
    record: dict[str, Any] = json.loads(text)
    return record


def _tags(run_id: str, record: dict[str, Any]) -> dict[str, str]:
    return {
        "fingerprint": record["fingerprint"],
        "run": run_id,
        "dataset": record["dataset"],
        "representation": record["representation"],
        "network": record["network"],
        "protocol": record["protocol_name"],
        "seed": str(record["seed"]),
        "tables": table_tag(claims_for(record["network"], record["dataset"])),
        "dvc_stage": f"train@{run_id}",
        "device": f"{record['device']['type']}: {record['device']['name']}",
    }


def _origin(head: str, dirty: str, run_id: str) -> dict[str, str]:
    # The three with a prefix are what MLflow's own pages show as the run's source.
    shown = {"mlflow.source.name": f"wrn-pipe stage train {run_id}", "mlflow.source.type": "LOCAL"}
    return {"commit": head, "dirty": dirty, "mlflow.source.git.commit": head, **shown}


def _found_origin(here: Checkout, run_id: str, record: dict[str, Any]) -> dict[str, str]:
    """The checked-out commit for files that its code and settings would make again; unknown for others."""
    if fingerprint(here.plan, run_id) != record["fingerprint"]:
        return _origin(UNKNOWN, UNKNOWN, run_id)
    return _origin(here.commit, str(here.dirty).lower(), run_id)


def _params(record: dict[str, Any]) -> dict[str, str]:
    protocol = Protocol.model_validate(record["protocol"]).model_dump(mode="json")
    return {
        **{key: str(value) for key, value in sorted(_flat(protocol).items())},
        **{key: str(record[key]) for key in ("network", "seed", "parameters", "loader", "kernels")},
    }


def _flat(values: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in values.items():
        flat |= _flat(value, f"{prefix}{key}.") if isinstance(value, dict) else {f"{prefix}{key}": value}
    return flat


def _dataset(record: dict[str, Any]) -> tuple[str, str] | None:
    folder = Path("data/beton") / f"{record['dataset']}-{record['representation']}"
    if not folder.exists():
        return None
    card = open_card(folder)
    try:
        return folder.name, content(card, "train")
    except (KeyError, TypeError) as error:
        what = f"{folder / 'card.json'} does not describe train: {error!r}"
        raise UserError(what, mend(folder)) from None


def _history(path: Path, epochs: int, run_id: str) -> dict[str, dict[int, float]]:
    """history.csv as metrics by epoch; empty fields are left out."""
    with path.open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    try:
        points = {int(row.pop("epoch")): {k: float(v) for k, v in row.items() if v != ""} for row in rows}
    except (KeyError, TypeError, ValueError):
        points = {}
    if list(points) != list(range(1, epochs + 1)):
        raise UserError(f"{path} does not hold the {epochs} epochs of the training", f"wrn-pipe repro {run_id}")
    names = dict.fromkeys(name for row in points.values() for name in row)
    return {name: {epoch: row[name] for epoch, row in points.items() if name in row} for name in names}


def _locked(entry: dict[str, Any] | None, weights: Path) -> str:
    """sha256 of a stage's entry in dvc.lock; `other weights` where that is not about these, `none` without one."""
    if entry is None:
        return "none"
    with weights.open("rb") as file:
        md5 = file_digest(file, "md5").hexdigest()
    if md5 not in [out.get("md5") for out in entry["outs"] if out["path"] == weights.as_posix()]:
        return "other weights"
    return sha256(json.dumps(entry, sort_keys=True).encode()).hexdigest()


def _figures(
    record: dict[str, Any], history: Path, evaluated: Path | None
) -> tuple[dict[str, Callable[[], "Figure"]], str]:
    title, sources, error = record["run"], [history, Path(run_figures.__file__)], None
    drawn: dict[str, Callable[[], Figure]] = {}
    if evaluated:
        error = json.loads((evaluated / "metrics.json").read_text(encoding="utf-8"))["top1_error"]
        sources += [evaluated / "predictions.parquet", evaluated / "metrics.json"]

        def confusion() -> "Figure":
            labels, predicted, probabilities = read(evaluated / "predictions.parquet")
            return run_figures.confusion_matrix(title, labels, predicted, probabilities.shape[1])

        def calibration() -> "Figure":
            return run_figures.calibration(title, *read(evaluated / "predictions.parquet"))

        drawn = {"confusion_matrix.png": confusion, "calibration.png": calibration}
    drawn["training_curves.png"] = partial(run_figures.training_curves, title, history, error)
    return drawn, sha256("".join(digest_of(path) for path in sources).encode()).hexdigest()
