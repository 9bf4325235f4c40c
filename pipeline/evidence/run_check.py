"""A run's files against each other and against its data: what each of them says, computed again from the others."""

from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import numpy as np
import numpy.typing as npt

from pipeline.artifacts import EVALUATION_FILES, MODEL_FILES, read_history, read_record
from pipeline.artifacts import read_predictions as read
from pipeline.atomic_write import json_text
from pipeline.data.beton import inspect, sha256
from pipeline.data.sampler import held_out
from pipeline.errors import UserError
from pipeline.evidence.findings import Finding, right, unchecked, wrong
from pipeline.models.names import parse
from pipeline.models.param_count import parameters
from pipeline.params import Plan
from pipeline.provenance import fingerprint
from pipeline.tasks.classification import about, metrics
from pipeline.training.evaluate_run import digests


def check(plan: Plan, run_id: str) -> Iterator[Finding]:
    """What the files of one run of the plan show, in the current folder, the repository's root."""
    evaluated, trained = Path("evaluations") / run_id, Path("models") / run_id
    data = Path("data/beton") / f"{plan.runs[run_id].dataset}-{plan.runs[run_id].representation}"
    yield from _predictions(plan, run_id, evaluated, data)
    looks: list[tuple[Path, Callable[[Path], Iterator[Finding]]]] = [
        (trained / "run.json", partial(_record, plan, run_id, data)),
        (evaluated / "run.json", partial(_record, plan, run_id, data)),
        (trained / "history.csv", partial(_history, plan, run_id)),
        (evaluated / "digests.json", partial(_digests, run_id, trained, data)),
    ]
    for path, look in looks:
        if not path.is_file():
            yield unchecked(path, "not here")
            continue
        try:
            yield from look(path)
        except UserError as error:
            yield wrong(path, error.what)
        except OSError as error:  # code or data that its fingerprint covers
            yield wrong(path, f"cannot be checked: {error}")


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
        yield wrong(path, "its predictions are not the most probable classes, or its probabilities not valid")
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


def _record(plan: Plan, run_id: str, data: Path, path: Path) -> Iterator[Finding]:
    """run.json against the plan, and its fingerprint against the code, settings, lock file and data that are here."""
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
    record = read_record(path, f"wrn-pipe repro {run_id}")
    if unlike := [key for key, value in expected.items() if record.get(key) != value]:
        yield wrong(path, f"{', '.join(unlike)}: not as params.yaml has it")
    elif not (data / "card.json").is_file():
        yield unchecked(path, "the data's card.json, which its fingerprint covers, is not here")
    elif record.get("fingerprint") != (found := fingerprint(plan, run_id)):
        yield wrong(path, f"its fingerprint is of other settings, code or data than those here: {found} now")
    else:
        yield right(path, f"says what params.yaml says; fingerprint {found[:12]} is of settings, code and data here")


def _history(plan: Plan, run_id: str, path: Path) -> Iterator[Finding]:
    epochs, found = plan.protocols[plan.run(run_id).protocol].epochs, len(read_history(path))
    if found == epochs:
        yield right(path, f"has the {epochs} epochs of its protocol, one a row")
    else:
        yield wrong(path, f"has {found} epochs, its protocol {epochs}")


def _digests(run_id: str, trained: Path, data: Path, path: Path) -> Iterator[Finding]:
    """digests.json against the files that it lists; those that are not here are named."""
    evaluated = path.parent
    told = read_record(path, f"wrn-pipe repro evaluate@{run_id}", "data", "device", "files")
    listed = told["files"] if isinstance(told["files"], dict) else {}
    known = {str(file): listed.get(str(file)) for file in (trained / name for name in MODEL_FILES)}
    known |= {str(file): listed.get(str(file)) for file in (evaluated / name for name in EVALUATION_FILES)}
    if isinstance(told["data"], dict):
        known[str(data / "card.json")] = told["data"].get("card")
    alike = 0
    for file, digest in known.items():
        if not Path(file).is_file():
            yield unchecked(file, f"not here; {path} has its sha256")
        elif (found := sha256(Path(file))) != digest:
            yield wrong(file, f"sha256 {found[:12]}, where {path} has {str(digest)[:12]}")
        else:
            alike += 1
    if alike == len(known):
        expected = json_text(digests(run_id, trained, evaluated, data, told["device"]).model_dump())
        if path.read_bytes() == expected.encode():
            yield right(path, f"the sha256 of {alike} files")
        else:
            yield wrong(path, "is not what its files and the data's card give")
