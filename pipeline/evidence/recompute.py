"""The two slow checks: predictions from the weights again, weights from nothing again."""

import tempfile
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path

import numpy as np

from pipeline import artifacts
from pipeline.artifacts import Digests, EpochRecord, Predictions, RunRecord
from pipeline.data.beton import sha256
from pipeline.errors import UserError
from pipeline.evidence.run_check import Finding, FinishedRun, of_plan, right, unchecked, wrong
from pipeline.params import PARAMS, Plan, Run
from pipeline.provenance import versions
from pipeline.runner.run_hooks import RunHooks
from pipeline.training import device as devices
from pipeline.training.evaluate_run import evaluate
from pipeline.training.loop import train
from pipeline.training.train_run import prepare

ROUNDING = 1e-3
"""How far apart the probabilities of two kinds of processor may lie, whose sums round otherwise; of slim predictions,
which have none, the part of the images whose class may differ."""


class EnoughError(Exception):
    """Ends a training after the steps or epochs that were asked for."""


def evaluated(run: FinishedRun, plan: Plan) -> Finding:
    """Whether the weights of a run still predict, by the code here, what is recorded of them.

    To the same bits on the kind of machine that digests.json names, by the torch that run.json names; elsewhere within
    ROUNDING, and with the same classes but where two are as probable as each other within that.
    """
    path = run.predictions
    try:
        _need(run, path, run.weights)
        record, told = RunRecord.read(run.evaluated / artifacts.RECORD), Digests.read(run.evaluated / artifacts.DIGESTS)
        its = Run.model_validate(run.origin.settings["run"])
        if its.dataset not in plan.datasets:
            raise UserError(f"{PARAMS} has no dataset {its.dataset}", "wrn-pipe plan")
    except (UserError, KeyError, ValueError) as error:  # which is a finding of the checks before this
        return unchecked(path, f"{_told(error)}, so the weights were not evaluated again")
    alone = plan.model_copy(update={"runs": {run.id: its}, "protocols": {its.protocol: record.protocol}})
    with tempfile.TemporaryDirectory() as work:
        made = Path(work) / artifacts.PREDICTIONS
        try:
            evaluate(alone, run.id, run.trained, Path(work))
            again = artifacts.read_predictions(made)
            if run.origin.predictions:
                same = sha256(made) == told.files.get(f"{artifacts.EVALUATIONS}/{run.id}/{artifacts.PREDICTIONS}")
                apart = float((again.predicted != artifacts.read_slim(path)["prediction"]).mean())
                near, what = apart <= ROUNDING, f"other classes of {100 * apart:.2g} % of the images"
            else:
                same, near, what = _compared(again, artifacts.read_predictions(path))
        except (UserError, ValueError) as error:
            return wrong(path, f"cannot be computed again: {_told(error)}")
    if same:
        return right(path, "the weights give it again, to the same bits")
    if told.device == devices.facts(devices.choose(plan.device)) and record.versions == versions():
        return wrong(path, f"the weights give {what}, on the same kind of machine")
    if near:
        return right(path, f"the weights give it again but for {what}, on another kind of machine, or torch")
    return wrong(path, f"the weights give {what}, more than rounding explains")


def _told(error: Exception) -> str:
    return error.what if isinstance(error, UserError) else repr(error)


def _compared(again: Predictions, told: Predictions) -> tuple[bool, bool, str]:
    """Whether two predictions are the same, whether rounding explains their difference, and that in words."""
    if told.probabilities.shape != again.probabilities.shape:
        return False, False, "another number of probabilities"
    apart = float(np.abs(told.probabilities - again.probabilities).max())
    as_probable = told.probabilities.max(1) - told.probabilities[np.arange(len(told.labels)), again.predicted]
    near = apart <= ROUNDING and np.array_equal(told.labels, again.labels) and (as_probable <= 2 * ROUNDING).all()
    return all(map(np.array_equal, told, again)), bool(near), f"other probabilities, by up to {apart:.2g}"


def trained(plan: Plan, run_id: str, epochs: int | None) -> Iterator[Finding]:
    """Whether training a run again gives its history, and after all epochs its weights, to the same bits.

    Another kind of machine, or build of torch, rounds otherwise, so that what differs there is unchecked, not wrong.
    """
    run = of_plan(plan, run_id)
    history = run.trained / artifacts.HISTORY
    try:
        _need(run, run.weights)
        told, its = artifacts.read_history(history), RunRecord.read(run.trained / artifacts.RECORD)
    except UserError as error:
        yield unchecked(run.trained, f"{error.what}, so the run was not trained again")
        return
    if (processes := max(int(device.get("processes", 1)) for device in its.devices)) > 1:
        why = f"{processes} processes trained it, which one can not do again"
        yield unchecked(run.trained, why, f"wrn-pipe stage train {run_id} --fresh")
        return
    asked = len(told) if epochs is None else min(epochs, len(told))
    rows: list[EpochRecord] = []

    def note(record: EpochRecord, rate: float) -> None:
        rows.append(record)
        if len(rows) == asked < training.protocol.epochs:
            raise EnoughError

    with tempfile.TemporaryDirectory() as scratch:
        training, record = prepare(plan, run_id, run.origin.fingerprint, Path(scratch), RunHooks())
        with suppress(EnoughError):
            train(training, note)
        artifacts.write_weights(Path(scratch) / artifacts.WEIGHTS, training.model.state_dict())
        again = (Path(scratch) / artifacts.WEIGHTS).read_bytes()
    trained_on = [{k: v for k, v in each.items() if k != "from_epoch"} for each in its.devices]
    same = [trained_on, its.kernels, its.versions] == [[record["device"]], record["kernels"], record["versions"]]
    differ = wrong if same else unchecked
    where = "" if same else ", but this is another kind of machine, or torch, than run.json names"
    unlike = next(((one, other) for one, other in zip(told, rows, strict=False) if one != other), None)
    if unlike:
        one, other = map(asdict, unlike)
        keys = ", ".join(key for key in one if one[key] != other[key])
        yield differ(history, f"training it again gives another {keys} in epoch {unlike[1].epoch}{where}")
    else:
        yield right(history, f"training again gives the same bits in {len(rows)} of {len(told)} epochs")
    if len(rows) < training.protocol.epochs:
        yield unchecked(run.weights, f"only {len(rows)} epochs were trained again; without --epochs all are")
    elif again == run.weights.read_bytes():
        yield right(run.weights, "training it again gives the same bits")
    else:
        yield differ(run.weights, f"training it again gives other weights{where}")


def _need(run: FinishedRun, *files: Path) -> None:
    """Raise UserError for the first of these files, or of the run's data, that is not here."""
    for path in (*files, *(run.data / name for name in ("card.json", "train.beton", "test.beton"))):
        if not path.is_file():
            raise UserError(f"{path} not found", f"wrn-pipe repro {run.id}")
