"""Where each file of a run lies, and its one reader."""

import csv
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipeline.errors import UserError

SAVED_STATES = "epoch-*.safetensors"
"""Names of a training's saved states in its folder below scratch/, the later the further: training/checkpoints.py."""


@dataclass(frozen=True)
class Epoch:
    """One row of history.csv. training/checkpoints.py says what the numbers are."""

    epoch: int
    learning_rate: float
    train_loss: float
    train_error: float
    test_error: float | None


def read_history(path: Path, again: str) -> tuple[Epoch, ...]:
    """The rows of a history.csv. Raises UserError, with `again` as the command that writes it, for another file."""
    remedy = f"it is written by: {again}"
    if not path.is_file():
        raise UserError(f"{path} not found", remedy)
    try:
        rows = tuple(
            Epoch(
                int(row["epoch"]),
                float(row["learning_rate"]),
                float(row["train_loss"]),
                float(row["train_error"]),
                float(row["test_error"]) if row.get("test_error") else None,
            )
            for row in csv.DictReader(path.read_text(encoding="utf-8").splitlines())
        )
    except (KeyError, TypeError, ValueError) as error:
        raise UserError(f"{path}: not a training curve ({error!r})", remedy) from None
    if [row.epoch for row in rows] != list(range(1, len(rows) + 1)):
        raise UserError(f"{path}: its epochs are not 1 to {len(rows)}, one a row", remedy)
    return rows


def read_record(path: Path, again: str, *keys: str) -> dict[str, Any]:
    """A JSON record of a run: run.json, metrics.json or digests.json.

    Raises UserError, with `again` as the command that writes it, for another file than an object with these `keys`.
    """
    remedy = f"it is written by: {again}"
    if not path.is_file():
        raise UserError(f"{path} not found", remedy)
    try:
        record = dict(json.loads(path.read_bytes()))
    except (ValueError, TypeError) as error:
        raise UserError(f"{path}: not a record of a run ({error!r})", remedy) from None
    if lacking := [key for key in keys if key not in record]:
        raise UserError(f"{path} does not say {', '.join(lacking)}", remedy)
    return record
