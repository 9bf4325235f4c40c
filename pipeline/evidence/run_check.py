"""A run's files against each other and against its data: what each of them says, computed anew from the others."""

import csv
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from pipeline.data.beton import open_tables, sha256
from pipeline.data.sampler import held_out
from pipeline.errors import UserError
from pipeline.evidence.findings import Finding, right, unchecked, wrong
from pipeline.models.names import parse
from pipeline.models.param_count import parameters
from pipeline.params import Plan
from pipeline.provenance import fingerprint
from pipeline.publish import json_text
from pipeline.tasks.classification import about, metrics
from pipeline.tasks.predictions import read
from pipeline.training.run_digests import digests

EVALUATIONS, MODELS, BETON = Path("evaluations"), Path("models"), Path("data/beton")


def check(plan: Plan, run_id: str) -> Iterator[Finding]:
    """What the files of one run of the plan show, in the current folder, the repository's root."""
    evaluated, trained = EVALUATIONS / run_id, MODELS / run_id
    if (evaluated / "predictions.parquet").is_file():
        yield from _predictions(plan, run_id, evaluated)
    else:
        yield unchecked(evaluated / "metrics.json", "the predictions that it should follow from are not here")
    for folder in (trained, evaluated):
        if (folder / "run.json").is_file():
            yield _record(plan, run_id, folder / "run.json")
        else:
            yield unchecked(folder / "run.json", "not here")
    if (trained / "history.csv").is_file():
        yield _history(plan, run_id, trained / "history.csv")
    yield from _digests(plan, run_id, evaluated / "digests.json")


def _predictions(plan: Plan, run_id: str, folder: Path) -> Iterator[Finding]:
    path, told = folder / "predictions.parquet", folder / "metrics.json"
    run = plan.run(run_id)
    try:
        labels, predicted, probabilities = read(path)
    except UserError as error:
        yield wrong(path, error.what)
        return
    sums = probabilities.sum(1)
    if not np.array_equal(predicted, probabilities.argmax(1)) or not np.allclose(sums, 1) or (probabilities < 0).any():
        yield wrong(path, "its predictions are not the most probable classes, or its probabilities no probabilities")
    yield _labels(path, labels, BETON / f"{run.dataset}-{run.representation}", plan.protocols[run.protocol].holdout)
    if not told.is_file():
        yield unchecked(told, "not here")
        return
    try:
        expected = json_text(about(plan, run_id) | metrics(labels, predicted, probabilities)).encode()
    except (ValueError, TypeError, IndexError) as error:
        yield wrong(path, f"no metrics follow from it: {error!r}")
        return
    if told.read_bytes() == expected:
        yield right(told, f"follows from the {len(labels)} predictions in {path.name}")
    else:
        differing = _differing(told.read_bytes(), expected)
        yield wrong(told, f"{differing}; computed again from {path.name}")


def _differing(told: bytes, expected: bytes) -> str:
    try:
        here, should = dict(json.loads(told)), json.loads(expected)
    except (ValueError, TypeError) as error:
        return f"no metrics: {error}"
    keys = [key for key in sorted({*here, *should}) if here.get(key) != should.get(key)]
    return ", ".join(f"{key} is {here.get(key)!r}, should be {should.get(key)!r}" for key in keys) or "other spelling"


def _labels(path: Path, labels: npt.NDArray[np.int64], folder: Path, holdout: int) -> Finding:
    data = folder / ("train.beton" if holdout else "test.beton")
    if not data.is_file():
        return unchecked(path, f"{data}, whose labels it should have, is not here")
    try:
        known = open_tables(data).labels
    except UserError as error:
        return wrong(data, error.what.removeprefix(f"{data}: "))
    if holdout:
        known = known[held_out(len(known), holdout)]
    if np.array_equal(labels, known):
        return right(path, f"has the labels of {data}, in its order")
    at = "another number of them" if len(labels) != len(known) else f"first at image {(labels != known).argmax()}"
    return wrong(path, f"its labels are not those of {data}: {at}")


def _record(plan: Plan, run_id: str, path: Path) -> Finding:
    """run.json against the plan, and its fingerprint against the code, settings, lock file and data that are here."""
    run = plan.run(run_id)
    try:
        record: dict[str, Any] = dict(json.loads(path.read_bytes()))
        if path.read_bytes() != json_text(record).encode():
            return wrong(path, "is not written as the training writes it")
    except (ValueError, TypeError) as error:
        return wrong(path, f"no record: {error}")
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
    unlike = [key for key, value in expected.items() if record.get(key) != value]
    if unlike:
        return wrong(path, f"{', '.join(unlike)}: not as params.yaml has it")
    if not (BETON / f"{run.dataset}-{run.representation}" / "card.json").is_file():
        return unchecked(path, "the data's card.json, which its fingerprint covers, is not here")
    try:
        found = fingerprint(plan, run_id)
    except OSError as error:
        return wrong(path, f"its fingerprint cannot be computed: {error}")
    if record.get("fingerprint") != found:
        return wrong(path, f"its fingerprint is of other settings, code or data than those here: {found} now")
    return right(path, f"says what params.yaml says; fingerprint {found[:12]} is that of settings, code and data here")


def _history(plan: Plan, run_id: str, path: Path) -> Finding:
    epochs = plan.protocols[plan.run(run_id).protocol].epochs
    try:
        with path.open(encoding="utf-8", newline="") as file:
            counted = [int(row["epoch"]) for row in csv.DictReader(file)]
    except (ValueError, KeyError, TypeError, csv.Error) as error:
        return wrong(path, f"no history: {error!r}")
    if counted != list(range(1, epochs + 1)):
        return wrong(path, f"does not have the epochs 1 to {epochs}, one a row")
    return right(path, f"has the {epochs} epochs of its protocol, one a row")


def _digests(plan: Plan, run_id: str, path: Path) -> Iterator[Finding]:
    """digests.json against the files that it lists; those that are not here are named."""
    if not path.is_file():
        yield unchecked(path, "not here")
        return
    run = plan.run(run_id)
    try:
        told = json.loads(path.read_text(encoding="utf-8"))
        files = {Path(name): str(digest) for name, digest in told["files"].items()}
        card, device = str(told["data"]["card"]), told["device"]
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        yield wrong(path, f"no list of digests: {error!r}")
        return
    outside = [file for file in files if file.parent not in (MODELS / run_id, EVALUATIONS / run_id)]
    if outside:
        yield wrong(path, f"names {outside[0]}, which is no file of this run")
        return
    data = BETON / f"{run.dataset}-{run.representation}"
    files[data / "card.json"] = card
    absent = [file for file in files if not file.is_file()]
    unlike = [file for file, digest in files.items() if file.is_file() and sha256(file) != digest]
    for file in unlike:
        yield wrong(file, f"sha256 {sha256(file)[:12]}, where {path} has {files[file][:12]}")
    for file in absent:
        yield unchecked(file, f"not here; {path} has its sha256")
    if not absent and not unlike:
        try:
            expected = json_text(digests(run_id, MODELS / run_id, EVALUATIONS / run_id, data, device))
        except (UserError, KeyError, TypeError) as error:
            yield wrong(data / "card.json", f"{error!r}")
            return
        if path.read_bytes() == expected.encode():
            yield right(path, f"the sha256 of {len(files)} files")
        else:
            yield wrong(path, "is not what its files and the data's card give")
