"""Classification of images: the loss that trains a network, its predictions, and the errors that they are scored by."""

import math
from collections.abc import Mapping
from contextlib import nullcontext
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pipeline.data.loader import Ints, Loader
from pipeline.data.preprocessing import Preprocessing
from pipeline.errors import UserError
from pipeline.models.build import skeleton
from pipeline.models.names import parse
from pipeline.params import Backend, Plan
from pipeline.progress import progress

_BATCH = 500
_JPEG_BATCH = 100
"""224 x 224 pixels instead of 32 x 32, so that activations fit the memory of a small machine."""


def loss(logits: Tensor, labels: Tensor, label_smoothing: float) -> Tensor:
    """Mean cross-entropy over a mini-batch."""
    return F.cross_entropy(logits, labels, label_smoothing=label_smoothing)


def count_errors(logits: Tensor, labels: Tensor) -> Tensor:
    """Misclassified samples of a mini-batch, on its device."""
    return (logits.argmax(1) != labels).sum()


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


def metrics(
    labels: npt.NDArray[np.int64], predictions: npt.NDArray[np.int64], probabilities: npt.NDArray[np.float64]
) -> dict[str, float | int]:
    """top1_error and its binomial standard_error in percent, errors and n in images, negative_log_likelihood in nats.

    top5_error as well where there are at least ten times as many classes as that.
    """
    n, classes = probabilities.shape
    # A diverged network may give the true class a probability that float64 can not hold: it counts as 708 nats.
    true = np.maximum(probabilities[np.arange(n), labels], np.finfo(np.float64).tiny)
    errors = int((labels != predictions).sum())
    rate = errors / n
    values: dict[str, float | int] = {
        "n": n,
        "errors": errors,
        "top1_error": round(100 * rate, 6),
        "standard_error": round(100 * math.sqrt(rate * (1 - rate) / n), 6),
        "negative_log_likelihood": round(float(-np.log(true).mean()), 6),
    }
    if classes >= 50:
        top5 = np.argsort(-probabilities, axis=1, kind="stable")[:, :5]  # of equals the lowest, as the prediction is
        values["top5_error"] = round(100 * (1 - float((top5 == labels[:, None]).any(1).mean())), 6)
    return values


def about(plan: Plan, run_id: str) -> dict[str, float | int | str]:
    """What metrics.json says besides the metrics: of which run they are, and on which images."""
    run = plan.run(run_id)
    split = "held-out" if plan.protocols[run.protocol].holdout else "test"
    return {"run": run_id, "dataset": run.dataset, "network": run.network, "split": split}
