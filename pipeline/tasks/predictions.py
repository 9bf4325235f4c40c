"""Class probabilities for every image of a split, as a Parquet file."""

from collections.abc import Mapping
from contextlib import nullcontext
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from torch import nn

from pipeline.data.loader import Backend, Ints, Loader
from pipeline.data.preprocessing import Preprocessing
from pipeline.errors import UserError
from pipeline.models.build import skeleton
from pipeline.models.names import parse
from pipeline.progress import progress

PROBABILITY = "probability_"
_BATCH = 500
_JPEG_BATCH = 100
"""224 x 224 pixels instead of 32 x 32, so that activations fit the memory of a small machine."""


def loader_of(data: Path, split: str, backend: Backend) -> Loader:
    """What reads a split of the folder `data` to predict it."""
    return Loader(data, split, _JPEG_BATCH if data.name.endswith("-jpeg") else _BATCH, backend)


def network_of(network: str, classes: int, weights: Mapping[str, torch.Tensor], device: torch.device) -> nn.Module:
    """A network that holds these weights, or copies of them on `device`. Raises UserError where they do not fit it."""
    model = skeleton(parse(network), classes)
    try:
        model.load_state_dict(weights, assign=True)
    except RuntimeError as error:
        what = " ".join(str(error).split())[:200]
        raise UserError(f"the weights are not those of {network}: {what}", "dvc checkout, or train it again") from None
    return model.to(device).to(memory_format=torch.channels_last)


def predict(
    model: nn.Module,
    loader: Loader,
    preprocessing: Preprocessing,
    device: torch.device,
    samples: Ints,
    shown: bool = True,
) -> tuple[Ints, npt.NDArray[np.float64]]:
    """Labels int64 [N] and probabilities float64 [N, classes] of the N `samples` of the loader's split, in their order.

    fp32 whatever the training's precision was; no test-time augmentation (paper, section 3). `shown`: with progress.
    """
    model.eval()
    labels, rows = [], []
    bar = progress("evaluate", len(samples), "images") if shown else nullcontext()
    with torch.inference_mode(), bar as task:
        for batch in loader.batches(samples):
            logits = model(preprocessing(torch.from_numpy(batch.images).to(device)))
            rows.append(torch.softmax(logits.double(), 1).cpu().numpy())
            labels.append(batch.labels)
            if task:
                task.advance(len(batch.labels))
    return np.concatenate(labels), np.concatenate(rows)


def write(path: Path, samples: Ints, labels: Ints, probabilities: npt.NDArray[np.float64]) -> None:
    """Columns: index, label, prediction (the most probable class, the lowest of equals), probability_0..."""
    columns = {
        "index": pa.array(samples),
        "label": pa.array(labels),
        "prediction": pa.array(probabilities.argmax(1)),
        **{f"{PROBABILITY}{k}": pa.array(probabilities[:, k]) for k in range(probabilities.shape[1])},
    }
    pq.write_table(pa.table(columns), path, compression="zstd")


def read(path: Path) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64], npt.NDArray[np.float64]]:
    """Labels int64 [N], predictions int64 [N], probabilities float64 [N, classes]. Raises UserError on another file."""
    try:
        table = pq.read_table(path)
        classes = sum(name.startswith(PROBABILITY) for name in table.column_names)
        if table.column_names != ["index", "label", "prediction", *(f"{PROBABILITY}{k}" for k in range(classes))]:
            raise pa.ArrowInvalid(f"columns are {table.column_names}")
    except (pa.ArrowInvalid, OSError) as error:
        raise UserError(f"{path} holds no predictions: {error}", "run wrn-pipe repro evaluate") from None
    probabilities = np.stack([table.column(f"{PROBABILITY}{k}").to_numpy() for k in range(classes)], axis=1)
    return table.column("label").to_numpy(), table.column("prediction").to_numpy(), probabilities
