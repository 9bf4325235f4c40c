"""A run's files read back as they were written, and a broken one is named with the place; folders are replaced as a
whole: the old or the new one is there, however it ends."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pipeline.artifacts import (
    Digests,
    EpochRecord,
    Evaluation,
    Predictions,
    RunRecord,
    read_history,
    read_predictions,
    read_record,
    read_weights,
    write_history,
    write_predictions,
)
from pipeline.atomic_write import new_folder
from pipeline.errors import UserError

ROOT = Path(__file__).resolve().parents[1]
HISTORY = [EpochRecord(1, 0.1, 1 / 3, 12.5), EpochRecord(2, 0.02, 2e-17, 0.1 + 0.2, 6.25)]


def test_history_and_predictions_read_back_to_the_same_bits(tmp_path: Path) -> None:
    write_history(tmp_path / "history.csv", HISTORY)
    assert read_history(tmp_path / "history.csv") == HISTORY
    probabilities = np.random.default_rng(0).dirichlet(np.ones(12), 5)
    written = Predictions(np.arange(5), probabilities.argmax(1), probabilities)
    write_predictions(tmp_path / "predictions.parquet", np.arange(10, 15), written)
    assert all(map(np.array_equal, read_predictions(tmp_path / "predictions.parquet"), written))


@pytest.mark.parametrize(
    ("kind", "name"), [(RunRecord, "run.json"), (Evaluation, "metrics.json"), (Digests, "digests.json")]
)
def test_committed_records_are_written_again_to_the_same_bytes(kind: Any, name: str, tmp_path: Path) -> None:
    committed = sorted((ROOT / "evaluations").glob(f"*/{name}"))
    assert committed
    for path in committed:
        kind.read(path).write(tmp_path / name)
        assert (tmp_path / name).read_bytes() == path.read_bytes()


@pytest.mark.parametrize(
    ("name", "content", "read", "said"),
    [
        ("run.json", '{"run": 3}', RunRecord.read, "run: Input should be a valid string"),
        ("metrics.json", "{", Evaluation.read, "EOF"),
        ("metrics.json", "[]", read_record, "object"),
        ("run.json", "{}", lambda path: read_record(path, None, "network"), "network"),
        ("digests.json", None, Digests.read, "No such file"),
        ("history.csv", "epoch,learning_rate,train_loss,train_error\n1,0.1,x,2\n", read_history, "line 2: ValueError"),
        ("model.safetensors", "{}", read_weights, "cannot be read"),
        ("predictions.parquet", "PAR1", read_predictions, "cannot be read"),
    ],
)
def test_a_broken_file_is_named_and_how_to_restore_it(
    tmp_path: Path, name: str, content: str | None, read: Callable[[Path], Any], said: str
) -> None:
    path = tmp_path / name
    if content is not None:
        path.write_text(content)
    with pytest.raises(UserError) as error:
        read(path)
    assert str(path) in error.value.what
    assert said in error.value.what
    assert f"checkout {path}" in error.value.remedy


def names(folder: Path) -> list[str]:
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())


def fill(to: Path, name: str) -> None:
    with new_folder(to) as work:
        (work / name).write_text(name)


def test_a_folder_is_replaced_or_left(tmp_path: Path) -> None:
    to = tmp_path / "run"
    fill(to, "first")
    fill(to, "second")
    assert names(tmp_path) == ["run/second"]
    with pytest.raises(IsADirectoryError), new_folder(to) as work:
        work.write_text("third")
    assert names(tmp_path) == ["run/second"]


def test_after_a_kill_between_the_two_renames_the_old_one_is_there_again(tmp_path: Path) -> None:
    to = tmp_path / "run"
    fill(tmp_path / ".run.old", "first")
    with pytest.raises(IsADirectoryError), new_folder(to) as work:
        work.write_text("second")
    assert names(tmp_path) == ["run/first"]
