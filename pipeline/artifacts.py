"""Where each file of a run lies, and its one typed reader and writer.

torch, numpy and pyarrow are imported by the functions that need them: commands that only show a run do without.
"""

import csv
import json
import re
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, fields
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, Self, TypeAlias

from pydantic import BaseModel, ConfigDict, ValidationError

from pipeline.atomic_write import json_text, new_file
from pipeline.dataset_config import SCRATCH as SCRATCH
from pipeline.errors import UserError
from pipeline.params import Protocol, Run

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt
    from torch import Tensor

    Ints: TypeAlias = npt.NDArray[np.int64]
    Floats: TypeAlias = npt.NDArray[np.float64]

BETON, MODELS, EVALUATIONS, EVIDENCE = Path("data/beton"), Path("models"), Path("evaluations"), Path("evidence")
WEIGHTS, HISTORY, RECORD = "model.safetensors", "history.csv", "run.json"
PREDICTIONS, METRICS, DIGESTS = "predictions.parquet", "metrics.json", "digests.json"
ORIGIN = "origin.json"
"""Of evidence/<run>, beside RECORD, HISTORY, METRICS, DIGESTS and slim PREDICTIONS."""
MODEL_FILES = (WEIGHTS, HISTORY, RECORD)
"""Of models/<run>."""
EVALUATION_FILES = (PREDICTIONS, METRICS, RECORD)
"""Of evaluations/<run>, which digests.json lists; the record is a copy, so that tables need no weights."""
SAVED_STATES = "epoch-*.safetensors"
"""Names of a training's checkpoints in scratch/<fingerprint>, the later the further."""
_ABOUT = "training"
"""The one metadata key of a checkpoint: safetensors writes several in random order."""


def beton_of(run: Run) -> Path:
    """The folder of the .beton files that a run reads."""
    return BETON / f"{run.dataset}-{run.representation}"


def runs_in_evidence() -> list[str]:
    """By id, in the current folder."""
    return sorted(path.parent.name for path in EVIDENCE.glob(f"[!.]*/{ORIGIN}"))


class JsonFile(BaseModel):
    """Content of a JSON file with sorted keys. Unknown keys are kept: newer code may have written them."""

    model_config = ConfigDict(strict=True, frozen=True, extra="allow")

    @classmethod
    def read(cls, path: Path, again: str | None = None) -> Self:
        """Raises UserError that names the file, the field where one is wrong, and `again` as what writes it."""
        with _reading(path, again):
            return cls.model_validate_json(path.read_bytes())

    def write(self, path: Path) -> None:
        path.write_text(json_text(self.model_dump(mode="json")), encoding="utf-8")


@contextmanager
def _reading(path: Path, again: str | None = None) -> Iterator[None]:
    """Turn what goes wrong in the block into a UserError that names `path`, and `again` as what writes it."""
    try:
        yield
    except (OSError, ValueError, KeyError, TypeError) as error:
        why = str(error) if isinstance(error, ValueError) else repr(error)
        if isinstance(error, OSError):
            why = error.strerror or str(error)
        elif isinstance(error, ValidationError):
            first = error.errors()[0]
            why = f"{'.'.join(map(str, first['loc']))}: {first['msg']}".removeprefix(": ")
        restore = f"git checkout or dvc checkout {path}, or delete it, then wrn-pipe repro"
        raise UserError(f"{path} cannot be read ({why})", f"it is written by: {again}" if again else restore) from None


class RunRecord(JsonFile):
    """run.json: what was trained, by what, on what."""

    run: str
    dataset: str
    representation: str
    network: str
    seed: int
    protocol_name: str
    protocol: Protocol
    fingerprint: str
    parameters: int
    epochs: int
    loader: str
    kernels: str
    """What it trained with, with compiler or library versions."""
    device: dict[str, str | int]
    """What the last step ran on, as pipeline.training.device.facts says it."""
    devices: list[dict[str, str | int]]
    """All that steps ran on, in order; from_epoch: the first epoch, from 1, of which each did steps."""
    unrepeatable_kernels: list[str]
    """Kernels met that torch cannot make deterministic."""
    versions: dict[str, str]


class Evaluation(JsonFile):
    """metrics.json: of which run and images the metrics are. These stand beside, by the names that the task has."""

    __pydantic_extra__: dict[str, int | float]

    run: str
    dataset: str
    network: str
    split: Literal["held-out", "test"]


class Digests(JsonFile):
    """digests.json: what an evaluation was made of and what it gave."""

    data: dict[str, str]
    """name; card: sha256 of card.json, which pins the bytes of the .beton files; digest of each split's content."""
    device: dict[str, str | int]
    """What it was evaluated on."""
    files: dict[str, str]
    """Place in the repository -> sha256."""


class Origin(JsonFile):
    """origin.json of a run in evidence/: what its fingerprint is the hash of, and where this code is."""

    commit: str
    settings: dict[str, Any]
    """run, protocol, loading, device, kernels."""
    content: dict[str, str]
    """File that the training depended on -> sha256."""
    predictions: str
    """sha256 of the slim predictions."""
    weights_at: str | None = None
    """An address where the weights are to be had, if anywhere; digests.json has their sha256."""

    @property
    def fingerprint(self) -> str:
        """As RunRecord.fingerprint must be."""
        return fingerprint_of(self.settings, self.content)


def fingerprint_of(settings: dict[str, Any], content: dict[str, str]) -> str:
    return sha256(json.dumps([settings, content], sort_keys=True).encode()).hexdigest()


@dataclass
class EpochRecord:
    """One row of history.csv. Rates and losses are those of the training mini-batches as they came."""

    epoch: int
    """Completed epochs, from 1."""
    learning_rate: float
    """Of the epoch's last step."""
    train_loss: float
    """Mean over the epoch's samples, label smoothing included."""
    train_error: float
    """Percent of the epoch's augmented samples misclassified."""
    test_error: float | None = None
    """Percent of the test split misclassified by the weights after the epoch; None where it was not evaluated."""


def write_history(path: Path, history: Iterable[EpochRecord]) -> None:
    """One row an epoch; numbers as Python prints them, which read back to the same bits."""
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, [f.name for f in fields(EpochRecord)], lineterminator="\n")
        writer.writeheader()
        writer.writerows(asdict(row) for row in history)


def read_history(path: Path, again: str | None = None) -> list[EpochRecord]:
    """Raises UserError, with `again` as the command that writes it, for a file without epochs 1 to n, one a row."""
    history: list[EpochRecord] = []
    with _reading(path, again):
        for row in csv.DictReader(path.read_text(encoding="utf-8").splitlines()):
            try:
                rate, loss, error = (float(row[name]) for name in ("learning_rate", "train_loss", "train_error"))
                test_error = float(row["test_error"]) if row.get("test_error") else None
                history.append(EpochRecord(int(row["epoch"]), rate, loss, error, test_error))
            except (KeyError, TypeError, ValueError) as failure:
                raise ValueError(f"line {len(history) + 2}: {failure!r}") from None
        if not history or [row.epoch for row in history] != list(range(1, len(history) + 1)):
            raise ValueError("its epochs are not 1 to the last, one a row")
    return history


def read_record(path: Path, again: str | None = None, *keys: str) -> dict[str, Any]:
    """run.json, metrics.json or digests.json as it is. Raises as JsonFile.read, and for one without these `keys`."""
    with _reading(path, again):
        record = JsonFile.model_validate_json(path.read_bytes()).model_dump()
        return record | {key: record[key] for key in keys}


def write_weights(path: Path, state: "Mapping[str, Tensor]") -> None:
    from safetensors.torch import save

    path.write_bytes(save({name: value.detach().cpu().contiguous() for name, value in state.items()}))


def read_weights(path: Path) -> "dict[str, Tensor]":
    """Raises UserError for another file."""
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    with _reading(path):
        try:
            return load_file(path)
        except SafetensorError as error:
            raise ValueError(error) from None


class Predictions(NamedTuple):
    """What a classifier says of N images."""

    labels: "Ints"
    """int64 [N]"""
    predicted: "Ints"
    """int64 [N]: the most probable class, the lowest of equals."""
    probabilities: "Floats"
    """float64 [N, classes]"""


def write_predictions(path: Path, samples: "Ints", predictions: Predictions) -> None:
    """Columns: index (in the split: `samples`), label, prediction, probability_0..."""
    columns = {"index": samples, "label": predictions.labels, "prediction": predictions.predicted}
    columns |= {f"probability_{k}": column for k, column in enumerate(predictions.probabilities.T)}
    _write_columns(path, columns)


def read_predictions(path: Path) -> Predictions:
    """Raises UserError for another file."""
    import numpy as np

    _, labels, predicted, *probabilities = _read_columns(path, r"probability_\d+").values()
    return Predictions(labels, predicted, np.stack(probabilities, axis=1))


def write_slim(path: Path, full: Path) -> None:
    """The columns index, label and prediction of a predictions.parquet, and of fifty classes and more the next four."""
    import numpy as np

    index, labels, predicted, *probabilities = _read_columns(full, r"probability_\d+").values()
    columns = {"label": labels, "prediction": predicted}
    if len(probabilities) >= 50:
        order = np.argsort(-np.stack(probabilities, axis=1), axis=1, kind="stable")
        columns |= {f"top_{k + 1}": order[:, k] for k in range(1, 5)}
    narrow = {name: column.astype(np.int16) for name, column in columns.items()}
    _write_columns(path, {"index": index.astype(np.int32), **narrow})


def read_slim(path: Path) -> "dict[str, Ints]":
    """The columns that write_slim wrote. Raises UserError for another file."""
    return _read_columns(path, r"top_[2-5]")


def _write_columns(path: Path, columns: "dict[str, Any]") -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    pq.write_table(pa.table({name: pa.array(column) for name, column in columns.items()}), path, compression="zstd")


def _read_columns(path: Path, others: str) -> dict[str, Any]:
    """The columns index, label, prediction, and others of such names."""
    import pyarrow.parquet as pq

    with _reading(path):
        table = pq.read_table(path)
        names = table.column_names
        if names[:3] != ["index", "label", "prediction"] or not all(re.fullmatch(others, name) for name in names[3:]):
            raise ValueError(f"its columns are {names}")
    return {name: table[name].to_numpy() for name in names}


@dataclass
class Progress:
    """How far a training has come, and on what; schedule and random draws are functions of the first two."""

    epoch: int = 0
    """The epoch under way, from 0."""
    step: int = 0
    """Steps done of it."""
    history: list[EpochRecord] = field(default_factory=list)
    devices: list[dict[str, Any]] = field(default_factory=list)
    """What the steps ran on, in order: more than one after a move."""
    unrepeatable: list[str] = field(default_factory=list)
    """Kernels met that torch cannot make deterministic."""


def write_checkpoint(folder: Path, at: Progress, tensors: "Mapping[str, Tensor]") -> Path:
    """Write a state into a training's folder, named by its fingerprint; whole and on the disk, or not at all.

    Its name holds the place in the training and the first half of its sha256, so `sha256sum` checks it as we do:
    `epoch-0003-step-000120.<32 hexadecimal digits>.safetensors`. Raises OSError.
    """
    from safetensors.torch import save

    content = save(dict(tensors), {_ABOUT: json.dumps({"fingerprint": folder.name, **asdict(at)})})
    path = folder / f"epoch-{at.epoch:04d}-step-{at.step:06d}.{sha256(content).hexdigest()[:32]}.safetensors"
    new_file(path, content)
    return path


def read_checkpoint(path: Path) -> "tuple[Progress, dict[str, Tensor]]":
    """Raises OSError for a damaged file, UserError for a state of another training that was copied here."""
    from safetensors import safe_open
    from safetensors.torch import load

    content = path.read_bytes()
    if sha256(content).hexdigest()[:32] != path.name.split(".")[1]:
        raise OSError(None, "its content is not what was saved")
    with safe_open(path, "pt") as file:
        about = json.loads(file.metadata()[_ABOUT])
    if (fingerprint := about.pop("fingerprint")) != path.parent.name:
        raise UserError(
            f"{path} is a state of another training, of fingerprint {fingerprint}",
            f"delete {path}: it cannot be continued under other settings, code or data",
        )
    return Progress(**{**about, "history": [EpochRecord(**row) for row in about["history"]]}), load(content)
