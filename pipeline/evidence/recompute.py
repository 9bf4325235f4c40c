"""The two slow checks: predictions from the weights again, weights from nothing again."""

import tempfile
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.torch import save

from pipeline.artifacts import (
    DIGESTS,
    EVALUATIONS,
    EVIDENCE,
    PREDICTIONS,
    RECORD,
    WEIGHTS,
    Digests,
    EpochRecord,
    Progress,
    RunRecord,
    beton_of,
    read_history,
    read_record,
    read_slim,
)
from pipeline.artifacts import read_predictions as read
from pipeline.data.beton import sha256
from pipeline.errors import UserError
from pipeline.evidence.findings import Finding, right, unchecked, wrong
from pipeline.params import Plan, Run
from pipeline.provenance import fingerprint
from pipeline.runner.run_hooks import RunHooks
from pipeline.training import device as devices
from pipeline.training.evaluate_run import evaluate
from pipeline.training.loop import train
from pipeline.training.train_run import prepare

ROUNDING = 1e-3
"""How far apart the probabilities of two kinds of processor may lie, whose sums round otherwise."""


class _EnoughError(Exception):
    """Ends a training after the epochs that were asked for."""


def evaluated(plan: Plan, run_id: str) -> Iterator[Finding]:
    """Whether the weights of a run still predict what predictions.parquet says.

    To the same bits on the kind of machine that digests.json names; elsewhere within ROUNDING, and with the same
    classes but where two are as probable as each other within that.
    """
    path, weights = Path("evaluations") / run_id / "predictions.parquet", Path("models") / run_id / "model.safetensors"
    try:
        _need(plan, run_id, path, weights)
        machine = read_record(path.with_name("digests.json"), None, "device")["device"]
    except UserError as error:  # which is a finding of the checks before this
        yield unchecked(path, f"{error.what}, so the weights were not evaluated again")
        return
    with tempfile.TemporaryDirectory() as folder:
        try:
            evaluate(plan, run_id, Path("models") / run_id, Path(folder))
            again, told = read(Path(folder) / path.name), read(path)
        except UserError as error:
            yield wrong(path, f"cannot be computed again: {error.what}")
            return
    apart = float(np.abs(told[2] - again[2]).max()) if told[2].shape == again[2].shape else float("inf")
    if apart == 0 and all(map(np.array_equal, told, again)):
        yield right(path, "the weights give it again, to the same bits")
    elif machine == devices.facts(devices.choose(plan.device)):
        yield wrong(path, f"the weights give other probabilities on the same kind of machine, by up to {apart:.2g}")
    elif apart <= ROUNDING and np.array_equal(told[0], again[0]) and _same_classes(told[2], again[1]):
        yield right(path, f"the weights give it again within {apart:.2g}, on another kind of machine")
    else:
        yield wrong(path, f"the weights give other probabilities, by up to {apart:.2g}, more than rounding explains")


def of_evidence(plan: Plan, run_id: str) -> Finding:
    """Whether the weights in evidence/<run> predict by the code here what is recorded of them.

    To the same bits on the kind of machine that evaluated them; elsewhere but for one image in a thousand.
    """
    folder = EVIDENCE / run_id
    path = folder / PREDICTIONS
    if not (folder / WEIGHTS).is_file():
        return unchecked(path, "its weights are not here, so they were not evaluated again")
    record, told = RunRecord.read(folder / RECORD), Digests.read(folder / DIGESTS)
    settings = {name: getattr(record, name) for name in ("dataset", "network", "representation", "seed")}
    its = {"runs": {run_id: Run(protocol=record.protocol_name, **settings)}}
    plan = plan.model_copy(update=its | {"protocols": {record.protocol_name: record.protocol}})
    if record.dataset not in plan.datasets or not (beton_of(plan.run(run_id)) / "card.json").is_file():
        return unchecked(path, f"the data of {record.dataset} is not here, so its weights were not evaluated again")
    with tempfile.TemporaryDirectory() as work:
        evaluate(plan, run_id, folder, Path(work))
        again = Path(work) / PREDICTIONS
        if sha256(again) == told.files[f"{EVALUATIONS}/{run_id}/{PREDICTIONS}"]:
            return right(path, "the weights give the full predictions again, to the same bits")
        differ = int((read(again).predicted != read_slim(path)["prediction"]).sum())
    if told.device == devices.facts(devices.choose(plan.device)) or differ > len(read_slim(path)["label"]) / 1000:
        return wrong(path, f"the weights give other predictions: {differ} other classes")
    return right(path, f"the weights give it again but for {differ} classes, on another kind of machine")


def trained(plan: Plan, run_id: str, epochs: int | None) -> Iterator[Finding]:
    """Whether training a run again gives its history, and after all epochs its weights, to the same bits.

    Another kind of machine rounds otherwise, so that what differs there is unchecked, not wrong.
    """
    folder = Path("models") / run_id
    history, weights_file = folder / "history.csv", folder / "model.safetensors"
    try:
        _need(plan, run_id, weights_file)
        told = read_history(history)
        told_of = read_record(folder / "run.json", None, "devices", "kernels")
    except UserError as error:
        yield unchecked(folder, f"{error.what}, so the run was not trained again")
        return
    if (processes := max(device.get("processes", 1) for device in told_of["devices"])) > 1:
        why = f"{processes} processes trained it, which one can not do again"
        yield unchecked(folder, why, f"wrn-pipe stage train {run_id} --fresh")
        return
    asked = len(told) if epochs is None else min(epochs, len(told))
    rows: list[EpochRecord] = []

    def note(record: EpochRecord, rate: float) -> None:
        rows.append(replace(record))
        if len(rows) == asked < plan.protocols[plan.run(run_id).protocol].epochs:
            raise _EnoughError

    with tempfile.TemporaryDirectory() as scratch:
        training, record = prepare(plan, run_id, fingerprint(plan, run_id), Path(scratch), RunHooks())
        done: Progress | None = None
        with suppress(_EnoughError):
            done = train(training, note)
    trained_on = [{k: v for k, v in each.items() if k != "from_epoch"} for each in told_of["devices"]]
    same = trained_on == [record["device"]] and told_of["kernels"] == record["kernels"]
    differ = wrong if same else unchecked
    where = "" if same else ", but this is another kind of machine than run.json names"
    unlike = next(((one, other) for one, other in zip(told, rows, strict=False) if one != other), None)
    if unlike:
        one, other = map(asdict, unlike)
        keys = ", ".join(key for key in one if one[key] != other[key])
        yield differ(history, f"training it again gives another {keys} in epoch {unlike[1].epoch}{where}")
    else:
        yield right(history, f"training again gives the same bits in {len(rows)} of {len(told)} epochs")
    if done is None:
        yield unchecked(weights_file, f"only {len(rows)} epochs were trained again; without --epochs all are")
        return
    weights = save({k: v.detach().cpu().contiguous() for k, v in training.model.state_dict().items()})
    if weights == weights_file.read_bytes():
        yield right(weights_file, "training it again gives the same bits")
    else:
        yield differ(weights_file, f"training it again gives other weights{where}")


def _need(plan: Plan, run_id: str, *files: Path) -> None:
    """Raise UserError for the first of these files, or of the run's data, that is not here."""
    run = plan.run(run_id)
    data = Path("data/beton") / f"{run.dataset}-{run.representation}"
    for path in (*files, *(data / name for name in ("card.json", "train.beton", "test.beton"))):
        if not path.is_file():
            raise UserError(f"{path} not found", f"wrn-pipe repro {run_id}")


def _same_classes(told: Any, classes: Any) -> bool:
    rows = np.arange(len(classes))
    return bool((told.max(1) - told[rows, classes] <= 2 * ROUNDING).all())
