"""A finished run with all that tells where its number came from: run.json, its training curve, digests of its files."""

import csv
import json
from collections.abc import Iterable
from dataclasses import dataclass
from hashlib import file_digest
from pathlib import Path
from typing import Any

from pipeline.comparison.results import Result
from pipeline.errors import UserError

FILES = (
    "models/{run}/model.safetensors",
    "models/{run}/history.csv",
    "models/{run}/run.json",
    "evaluations/{run}/predictions.parquet",
    "evaluations/{run}/metrics.json",
)
"""What a run leaves behind, relative to the repository's root."""


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
    """File, relative to the root -> sha256."""

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
    paths = [path.format(run=result.run) for path in FILES]
    for path in paths:
        if not (root / path).is_file():
            raise UserError(f"{path} is missing, though the run is evaluated", f"it is written by: {again}")
    digests = {}
    for path in paths:
        with (root / path).open("rb") as file:
            digests[path] = file_digest(file, "sha256").hexdigest()
    record = json.loads((root / f"evaluations/{result.run}/run.json").read_text(encoding="utf-8"))
    return Finished(result, record, _history(root, f"models/{result.run}/history.csv", again), digests)


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
