"""What MLflow is to hold of a run, worked out from files and settings alone. Nothing here talks to MLflow."""

import json
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any

from pipeline.artifacts import (
    BETON,
    EVALUATIONS,
    HISTORY,
    METRICS,
    MODELS,
    RECORD,
    WEIGHTS,
    read_history,
    read_record,
)
from pipeline.comparison.cells import Cell, Comparison, cell_of, planned
from pipeline.comparison.formats.cell_text import MEANINGS, difference, ours, published, verdict
from pipeline.comparison.results import load_results
from pipeline.data.beton import content, open_card
from pipeline.data.beton import sha256 as digest_of
from pipeline.data.digest import file_digest
from pipeline.dvc_lock import read as read_lock
from pipeline.errors import UserError
from pipeline.params import Plan, Protocol
from pipeline.provenance import commit, fingerprint
from pipeline.publication.claims import Claim, canonical
from pipeline.publication.paper import Paper

NO_CLAIM = "no claim"
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


def started(run_id: str, record: dict[str, Any], paper: Paper) -> tuple[dict[str, str], dict[str, str]]:
    """Tags and parameters of a run whose training starts here and now, from what run.json will say of it."""
    return _tags(run_id, record, paper) | _origin(run_id, *commit()), _params(record)


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


def _finished(run_id: str, of: Comparison, locked: dict[str, Any] | None, here: tuple[str, bool]) -> RunRecord:
    folder, again = MODELS / run_id, f"wrn-pipe repro {run_id}"
    record, weights = read_record(folder / RECORD, again), folder / WEIGHTS
    rows = [asdict(row) for row in read_history(folder / HISTORY, again)]
    names = [name for name in rows[0] if name != "epoch"]
    metrics = {name: {row["epoch"]: row[name] for row in rows if row[name] is not None} for name in names}
    about, note = "not evaluated", f"Trained, not evaluated: `wrn-pipe repro evaluate@{run_id}`."
    if any(r.run == run_id and r.record.fingerprint == record["fingerprint"] for r in of.results):
        values = read_record(EVALUATIONS / run_id / METRICS, again)
        numbers = {key for key, value in values.items() if isinstance(value, int | float)} - _COUNTS
        metrics |= {f"test_{key}": {record["epochs"]: values[key]} for key in numbers}
        about, note = judged(run_id, claims_for(record["network"], record["dataset"], of.paper), of)
    note += f"\n\nWeights: `{weights.as_posix()}`. Everything again: `{again}`."
    tags = {"verdict": about, "mlflow.note.content": note}
    tags |= {"weights_sha256": digest_of(weights), "dvc_lock": _locked(locked, weights)}
    # The checked-out commit is said of files that its code and settings would make again.
    own = fingerprint(of.plan, run_id) == record["fingerprint"]
    data = BETON / f"{record['dataset']}-{record['representation']}"
    return RunRecord(
        tags=_tags(run_id, record, of.paper) | tags,
        origin=_origin(run_id, *here) if own else _origin(run_id, "unknown", "unknown"),
        params=_params(record),
        metrics=metrics,
        dataset=(data.name, content(open_card(data), "train")) if data.exists() else None,
    )


def _tags(run_id: str, record: dict[str, Any], paper: Paper) -> dict[str, str]:
    return {
        **{key: record[key] for key in ("fingerprint", "run", "dataset", "representation", "network")},
        "protocol": record["protocol_name"],
        "seed": str(record["seed"]),
        "tables": table_tag(claims_for(record["network"], record["dataset"], paper)),
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


def _locked(entry: dict[str, Any] | None, weights: Path) -> str:
    """sha256 of a stage's entry in dvc.lock; `other weights` where that is not about these, `none` without one."""
    if entry is None:
        return "none"
    if file_digest(weights, "md5") not in [out["md5"] for out in entry["outs"]]:
        return "other weights"
    return sha256(json.dumps(entry, sort_keys=True).encode()).hexdigest()


def claims_for(network: str, dataset: str, paper: Paper) -> list[Claim]:
    """The paper's claims that a training of this network on this dataset answers, in the paper's order."""
    wanted = "runnable", canonical(network), dataset
    return [claim for claim in paper.claims if (claim.kind, claim.network, claim.dataset) == wanted]


def table_tag(claims: Sequence[Claim]) -> str:
    """The tables of these claims: `4 5`. `no claim` when the paper prints no number for the run."""
    return " ".join(dict.fromkeys(claim.table for claim in claims)) or NO_CLAIM


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
        parts += (
            [_sentence(cell, of.paper) + (f" This run is left out: {left_out}." if left_out else "")]
            if cell.ours
            else []
        )
        deviations += [f"- {d} ({d.reason})" for d in cell.deviations] if run_id in cell.runs else []
    if deviations:
        parts.append("\n".join(["Differs from the paper's protocol in:", *dict.fromkeys(deviations)]))
    return ", ".join(dict.fromkeys(words)), "\n\n".join(parts)


def _sentence(cell: Cell, paper: Paper) -> str:
    table, dataset, metric = paper.tables[cell.table], paper.datasets[cell.dataset], paper.metrics[cell.metric]
    where = f"{table.partition(':')[0]}, {cell.model} on {dataset}, {metric}"
    numbers = f"the paper {published(cell)}, ours {ours(cell)}, difference {difference(cell)}"
    meaning = MEANINGS[str(cell.verdict)].partition("; the letters")[0]  # there are none in a note
    return f"**{verdict(cell)}** - {where}: {numbers}. {meaning[0].upper()}{meaning[1:]}."
