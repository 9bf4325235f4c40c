"""Classification of images: the loss that trains a network, its predictions, and the errors that they are scored by."""

import math
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pipeline.artifacts import Predictions
from pipeline.data.loader import Ints
from pipeline.params import Plan

_TOP5_CLASSES = 50
"""Top-5 error is reported from ten times as many classes on."""


@dataclass(frozen=True)
class Classification:
    """What the training loop and the evaluation ask of a task, as `task_of` gives it. Outputs: logits [B, classes]."""

    label_smoothing: float = 0.0

    def loss(self, logits: Tensor, labels: Tensor) -> Tensor:
        """Mean cross-entropy over a mini-batch, in float32, whatever the outputs' precision is."""
        return F.cross_entropy(logits.float(), labels, label_smoothing=self.label_smoothing)

    def count_errors(self, logits: Tensor, labels: Tensor) -> Tensor:
        """Samples of a mini-batch that the network got wrong, for history.csv; on their device."""
        return (logits.argmax(1) != labels).sum()

    def predict(self, model: nn.Module, batches: Iterable[tuple[Tensor, Ints]]) -> Predictions:
        """Of normalised images, in their order, in fp32; no test-time augmentation (paper, section 3)."""
        model.eval()
        labels, rows = [], []
        with torch.inference_mode():
            for images, own in batches:
                rows.append(torch.softmax(model(images).double(), 1).cpu().numpy())
                labels.append(own)
        probabilities = np.concatenate(rows)
        return Predictions(np.concatenate(labels), probabilities.argmax(1), probabilities)

    def score(self, predictions: Predictions) -> dict[str, float]:
        """The metrics of metrics.json; first the one that the paper reports."""
        return metrics(*predictions)


def task_of(plan: Plan, run_id: str) -> Classification:
    return Classification(plan.protocols[plan.run(run_id).protocol].label_smoothing)


def metrics(labels: Ints, predicted: Ints, probabilities: npt.NDArray[np.float64]) -> dict[str, float]:
    """What metrics.json says of these predictions: errors in percent, the first with its binomial standard error, and
    the negative log likelihood in nats; top5_error of many classes."""
    n, classes = probabilities.shape
    errors = int((labels != predicted).sum())
    rate = errors / n
    # A diverged network may give the true class a probability that float64 cannot hold: it counts as 708 nats.
    true = np.maximum(probabilities[np.arange(n), labels], np.finfo(np.float64).tiny)
    found = {
        "top1_error": round(100 * rate, 6),
        "standard_error": round(100 * math.sqrt(rate * (1 - rate) / n), 6),
        "errors": errors,
        "n": n,
        "negative_log_likelihood": round(float(-np.log(true).mean()), 6),
    }
    if classes >= _TOP5_CLASSES:
        top5 = np.argsort(-probabilities, axis=1, kind="stable")[:, :5]  # of equals the lowest, as the prediction is
        found["top5_error"] = round(100 * (1 - float((top5 == labels[:, None]).any(1).mean())), 6)
    return found


def about(plan: Plan, run_id: str) -> dict[str, float | int | str]:
    """What metrics.json says besides the metrics: of which run they are, and on which images."""
    run = plan.run(run_id)
    split = "held-out" if plan.protocols[run.protocol].holdout else "test"
    return {"run": run_id, "dataset": run.dataset, "network": run.network, "split": split}
