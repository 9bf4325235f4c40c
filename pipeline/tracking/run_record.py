"""What MLflow is to hold of a run, worked out from files and settings alone. Nothing here talks to MLflow."""

import json
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from hashlib import file_digest, sha256
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipeline.comparison.results import Result, load_results
from pipeline.data.beton import open_card
from pipeline.data.beton import sha256 as digest_of
from pipeline.dvc_lock import read as read_lock
from pipeline.errors import UserError
from pipeline.params import Plan, Protocol
from pipeline.provenance import commit, fingerprint
from pipeline.tracking import run_figures
from pipeline.tracking.verdict_tags import claims_for, judged, table_tag
from pipeline.training.run_digests import content

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_COUNTS = {"errors", "n"}
"""Of metrics.json, behind the error; as charts they would only crowd the page."""


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
    weights: Path
    digest: str
    """The sha256 of the weights."""
    draw: "Callable[[], dict[str, Figure]]"
    """Draws its figures, by file name."""
    drawn_from: str
    """Digest of all that the figures are drawn from, their code included."""

    @property
    def fingerprint(self) -> str:
        return self.tags["fingerprint"]


def started(run_id: str, record: dict[str, Any]) -> tuple[dict[str, str], dict[str, str]]:
    """Tags and parameters of a run whose training starts here and now, from what run.json will say of it."""
    return _tags(run_id, record) | _origin(run_id, *commit()), _params(record)


def finished(plan: Plan, run_ids: Iterable[str]) -> dict[str, RunRecord]:
    """Runs as models/<run> and, once they are evaluated, evaluations/<run> describe them.

    Raises UserError for a file that is broken or missing.
    """
    results = [result for result in load_results(Path()) if result.run in plan.runs]
    locked, here = read_lock(), commit()
    records = {}
    for run_id in run_ids:
        again = f"wrn-pipe repro {run_id}"
        try:
            records[run_id] = _finished(run_id, plan, results, locked.get(f"train@{run_id}"), here)
        except FileNotFoundError as error:
            raise UserError(f"{error.filename} not found", again) from None
        except (ValueError, KeyError, TypeError) as error:
            why = f"{type(error).__name__}: {error}".partition("\n")[0]
            fix = f"wrn-pipe verify names the broken file; then {again}"
            raise UserError(f"the files of {run_id} cannot be read ({why})", fix) from None
    return records


def _finished(
    run_id: str, plan: Plan, results: Sequence[Result], locked: dict[str, Any] | None, here: tuple[str, bool]
) -> RunRecord:
    folder, evaluated = Path("models") / run_id, Path("evaluations") / run_id
    weights, history = folder / "model.safetensors", folder / "history.csv"
    record = json.loads((folder / "run.json").read_text(encoding="utf-8"))
    metrics, draw = _history(history, record["epochs"]), partial(run_figures.draw, run_id, history)
    sources = [Path(run_figures.__file__), history]
    verdict, note = "not evaluated", f"Trained, not evaluated: `wrn-pipe repro evaluate@{run_id}`."
    if any(r.run == run_id and r.record.fingerprint == record["fingerprint"] for r in results):
        measured, predictions = evaluated / "metrics.json", evaluated / "predictions.parquet"
        values = json.loads(measured.read_text(encoding="utf-8"))
        numbers = {key for key, value in values.items() if isinstance(value, int | float)} - _COUNTS
        metrics |= {f"test_{key}": {record["epochs"]: values[key]} for key in numbers}
        sources += [measured, predictions]
        draw = partial(draw, predictions, values["top1_error"])
        verdict, note = judged(run_id, claims_for(record["network"], record["dataset"]), plan, results)
    note += f"\n\nWeights: `{weights.as_posix()}`. Everything again: `wrn-pipe repro {run_id}`."
    tags = {"verdict": verdict, "mlflow.note.content": note, "dvc_lock": _locked(locked, weights)}
    # The checked-out commit is said of files that its code and settings would make again.
    own = fingerprint(plan, run_id) == record["fingerprint"]
    return RunRecord(
        tags=_tags(run_id, record) | tags,
        origin=_origin(run_id, *here) if own else _origin(run_id, "unknown", "unknown"),
        params=_params(record),
        metrics=metrics,
        dataset=_dataset(record),
        weights=weights,
        digest=digest_of(weights),
        draw=draw,
        drawn_from=sha256("".join(map(digest_of, sources)).encode()).hexdigest(),
    )


def _tags(run_id: str, record: dict[str, Any]) -> dict[str, str]:
    return {
        **{key: record[key] for key in ("fingerprint", "run", "dataset", "representation", "network")},
        "protocol": record["protocol_name"],
        "seed": str(record["seed"]),
        "tables": table_tag(claims_for(record["network"], record["dataset"])),
        "dvc_stage": f"train@{run_id}",
        "device": f"{record['device']['type']}: {record['device']['name']}",
    }


def _origin(run_id: str, head: str, dirty: bool | str) -> dict[str, str]:
    # The three with a prefix are what MLflow's own pages show as the run's source.
    shown = {"mlflow.source.name": f"wrn-pipe stage train {run_id}", "mlflow.source.type": "LOCAL"}
    return {"commit": head, "dirty": str(dirty).lower(), "mlflow.source.git.commit": head, **shown}


def _params(record: dict[str, Any]) -> dict[str, str]:
    params = _flat(Protocol.model_validate(record["protocol"]).model_dump(mode="json"))
    params["peak_learning_rate"] = params.pop("learning_rate")  # the metric of that name is the rate of each epoch
    params |= {key: record[key] for key in ("network", "seed", "parameters", "loader", "kernels")}
    return {key: str(value) for key, value in params.items()}


def _flat(values: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in values.items():
        flat |= _flat(value, f"{prefix}{key}.") if isinstance(value, dict) else {f"{prefix}{key}": value}
    return flat


def _dataset(record: dict[str, Any]) -> tuple[str, str] | None:
    folder = Path("data/beton") / f"{record['dataset']}-{record['representation']}"
    return (folder.name, content(open_card(folder), "train")) if folder.exists() else None


def _history(path: Path, epochs: int) -> dict[str, dict[int, float]]:
    """history.csv as metrics by epoch; some epochs have no test error."""
    import pandas as pd

    rows = pd.read_csv(path, index_col="epoch", float_precision="round_trip").astype(float)
    gaps = rows.drop(columns="test_error", errors="ignore").isna().to_numpy().any()
    if [*rows.index] != [*range(1, epochs + 1)] or gaps:
        raise ValueError(f"{path} does not hold the {epochs} epochs of the training")
    return {str(name): {int(str(epoch)): value for epoch, value in rows[name].dropna().items()} for name in rows}


def _locked(entry: dict[str, Any] | None, weights: Path) -> str:
    """sha256 of a stage's entry in dvc.lock; `other weights` where that is not about these, `none` without one."""
    if entry is None:
        return "none"
    with weights.open("rb") as file:
        md5 = file_digest(file, "md5").hexdigest()
    if md5 not in [out.get("md5") for out in entry["outs"] if out["path"] == weights.as_posix()]:
        return "other weights"
    return sha256(json.dumps(entry, sort_keys=True).encode()).hexdigest()
