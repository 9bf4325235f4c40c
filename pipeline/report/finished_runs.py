"""A finished run with all that tells where its number came from: run.json, its training curve, digests of its files.

Read from what git has of a run, so that a clone without weights and predictions writes the same page.
"""

import csv
import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipeline.comparison.results import Result
from pipeline.errors import UserError


@dataclass(frozen=True)
class Epoch:
    """What the report draws of a row of history.csv."""

    epoch: int
    learning_rate: float
    train_loss: float
    train_error: float
    """Percent."""
    test_error: float | None
    """Percent; None where nobody looked after this epoch."""


@dataclass(frozen=True)
class Finished:
    """A run that has been trained and evaluated."""

    result: Result
    record: dict[str, Any]
    """All of run.json; `result.record` has only what decides a comparison."""
    history: tuple[Epoch, ...]
    digests: dict[str, str]
    """File, relative to the root -> sha256, as digests.json has it."""

    @property
    def protocol(self) -> str:
        return str(self.record["protocol_name"])

    @property
    def error_name(self) -> str:
        """What its final error is: one of the test split, or of training images that it held out."""
        return "test error" if self.result.metrics.split == "test" else "held-out error"


def load_finished(root: Path, results: Iterable[Result]) -> list[Finished]:
    """The runs of `results`, in their order. Raises UserError that names a file that is missing or broken."""
    return [_load(root, result) for result in results]


def _load(root: Path, result: Result) -> Finished:
    again = f"wrn-pipe repro {result.run}"
    curve, evaluation = f"models/{result.run}/history.csv", root / "evaluations" / result.run
    for path in (curve, f"evaluations/{result.run}/digests.json"):
        if not (root / path).is_file():
            raise UserError(f"{path} is missing, though the run is evaluated", f"it is written by: {again}")
    record = json.loads((evaluation / "run.json").read_text(encoding="utf-8"))
    try:
        digests = json.loads((evaluation / "digests.json").read_text(encoding="utf-8"))["files"]
    except (ValueError, KeyError, TypeError) as error:
        what = f"evaluations/{result.run}/digests.json: not a list of digests ({error!r})"
        raise UserError(what, f"it is written by: {again}") from None
    return Finished(result, record, _history(root, curve, again), digests)


def _history(root: Path, path: str, again: str) -> tuple[Epoch, ...]:
    with (root / path).open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    try:
        return tuple(
            Epoch(
                int(row["epoch"]),
                float(row["learning_rate"]),
                float(row["train_loss"]),
                float(row["train_error"]),
                float(row["test_error"]) if row.get("test_error") else None,
            )
            for row in rows
        )
    except (KeyError, TypeError, ValueError) as error:
        raise UserError(f"{path}: not a training curve ({error!r})", f"it is written by: {again}") from None
