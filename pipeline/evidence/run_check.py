"""A run's files against each other and against its data: what each of them says, computed again from the others."""

import csv
import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import numpy.typing as npt

from pipeline.artifacts import EVALUATION_FILES, MODEL_FILES
from pipeline.artifacts import read_predictions as read
from pipeline.data.beton import inspect, sha256
from pipeline.data.sampler import held_out
from pipeline.errors import UserError
from pipeline.evidence.findings import Finding, right, unchecked, wrong
from pipeline.models.names import parse
from pipeline.models.param_count import parameters
from pipeline.params import Plan
from pipeline.provenance import fingerprint
from pipeline.publish import json_text
from pipeline.tasks.classification import about, metrics
from pipeline.training.run_digests import digests


def check(plan: Plan, run_id: str) -> Iterator[Finding]:
    """What the files of one run of the plan show, in the current folder, the repository's root."""
    evaluated, trained = Path("evaluations") / run_id, Path("models") / run_id
    data = Path("data/beton") / f"{plan.runs[run_id].dataset}-{plan.runs[run_id].representation}"
    yield from _predictions(plan, run_id, evaluated, data)
    for folder in (trained, evaluated):
        yield _record(plan, run_id, folder / "run.json", data)
    yield _history(plan, run_id, trained / "history.csv")
    yield from _digests(run_id, trained, evaluated, data)


def _predictions(plan: Plan, run_id: str, folder: Path, data: Path) -> Iterator[Finding]:
    path, told = folder / "predictions.parquet", folder / "metrics.json"
    if not path.is_file():
        yield unchecked(told, "the predictions that it should follow from are not here")
        return
    try:
        labels, predicted, probabilities = read(path)
        expected = json_text(about(plan, run_id) | metrics(labels, predicted, probabilities))
    except (UserError, ValueError, TypeError, IndexError) as error:
        yield wrong(path, f"no metrics follow from it: {error!r}")
        return
    sums = probabilities.sum(1)
    if not np.array_equal(predicted, probabilities.argmax(1)) or not np.allclose(sums, 1) or (probabilities < 0).any():
        yield wrong(path, "its predictions are not the most probable classes, or its probabilities no probabilities")
    yield _labels(path, labels, data, plan.protocols[plan.run(run_id).protocol].holdout)
    if not told.is_file():
        yield unchecked(told, "not here")
    elif told.read_bytes() == expected.encode():
        yield right(told, f"follows from the {len(labels)} predictions in {path.name}")
    else:
        lines = told.read_text(encoding="utf-8", errors="replace").splitlines()
        other = ", ".join(line.strip(" ,") for line in expected.splitlines() if line not in lines)
        yield wrong(told, f"{path.name} gives {other or 'less than it says'}")


def _labels(path: Path, labels: npt.NDArray[np.int64], folder: Path, holdout: int) -> Finding:
    data = folder / ("train.beton" if holdout else "test.beton")
    if not data.is_file():
        return unchecked(path, f"{data}, whose labels it should have, is not here")
    try:
        known = inspect(data).labels
    except UserError as error:
        return wrong(data, error.what.removeprefix(f"{data}: "))
    if holdout:
        known = known[held_out(len(known), holdout)]
    if np.array_equal(labels, known):
        return right(path, f"has the labels of {data}, in its order")
    at = "another number of them" if len(labels) != len(known) else f"first at image {(labels != known).argmax()}"
    return wrong(path, f"its labels are not those of {data}: {at}")


def _record(plan: Plan, run_id: str, path: Path, data: Path) -> Finding:
    """run.json against the plan, and its fingerprint against the code, settings, lock file and data that are here."""
    if not path.is_file():
        return unchecked(path, "not here")
    run = plan.run(run_id)
    protocol = plan.protocols[run.protocol]
    expected = {
        "run": run_id,
        **run.model_dump(mode="json"),
        "protocol_name": run.protocol,
        "protocol": protocol.model_dump(mode="json"),
        "epochs": protocol.epochs,
        "loader": plan.loading.backend,
        "parameters": parameters(parse(run.network), plan.datasets[run.dataset].classes),
    }
    try:
        record = dict(json.loads(path.read_bytes()))
    except (ValueError, TypeError) as error:
        return wrong(path, f"not a record of a run: {error}")
    if unlike := [key for key, value in expected.items() if record.get(key) != value]:
        return wrong(path, f"{', '.join(unlike)}: not as params.yaml has it")
    if not (data / "card.json").is_file():
        return unchecked(path, "the data's card.json, which its fingerprint covers, is not here")
    try:
        found = fingerprint(plan, run_id)
    except OSError as error:
        return wrong(path, f"its fingerprint cannot be computed: {error}")
    if record.get("fingerprint") != found:
        return wrong(path, f"its fingerprint is of other settings, code or data than those here: {found} now")
    return right(path, f"says what params.yaml says; fingerprint {found[:12]} is that of settings, code and data here")


def _history(plan: Plan, run_id: str, path: Path) -> Finding:
    if not path.is_file():
        return unchecked(path, "not here")
    epochs = plan.protocols[plan.run(run_id).protocol].epochs
    rows = csv.DictReader(path.read_text(encoding="utf-8", errors="replace").splitlines())
    if [row.get("epoch") for row in rows] != [str(epoch) for epoch in range(1, epochs + 1)]:
        return wrong(path, f"does not have the epochs 1 to {epochs}, one a row")
    return right(path, f"has the {epochs} epochs of its protocol, one a row")


def _digests(run_id: str, trained: Path, evaluated: Path, data: Path) -> Iterator[Finding]:
    """digests.json against the files that it lists; those that are not here are named."""
    path = evaluated / "digests.json"
    if not path.is_file():
        yield unchecked(path, "not here")
        return
    known = [*(trained / name for name in MODEL_FILES), *(evaluated / name for name in EVALUATION_FILES)]
    try:
        told = json.loads(path.read_text(encoding="utf-8"))
        files = {file: str(told["files"][str(file)]) for file in known} | {
            data / "card.json": str(told["data"]["card"])
        }
        device = told["device"]
    except (ValueError, KeyError, TypeError) as error:
        yield wrong(path, f"not the digests of this run's files: {error!r}")
        return
    alike = 0
    for file, digest in files.items():
        if not file.is_file():
            yield unchecked(file, f"not here; {path} has its sha256")
        elif (found := sha256(file)) != digest:
            yield wrong(file, f"sha256 {found[:12]}, where {path} has {digest[:12]}")
        else:
            alike += 1
    if alike == len(files):
        try:
            expected = json_text(digests(run_id, trained, evaluated, data, device).model_dump())
        except (UserError, KeyError, TypeError, ValueError) as error:
            yield wrong(data / "card.json", f"{error!r}")
            return
        if path.read_bytes() == expected.encode():
            yield right(path, f"the sha256 of {alike} files")
        else:
            yield wrong(path, "is not what its files and the data's card give")
