"""predictions.parquet: class probabilities for every image of a split."""

from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.data.loader import Ints
from pipeline.errors import UserError

PROBABILITY = "probability_"


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
