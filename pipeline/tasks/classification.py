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
from pipeline.data.sampler import Ints
from pipeline.tasks.task import Metric, for_file


@dataclass(frozen=True)
class Classification:
    """The task of telling one class for each image. Outputs are logits [B, classes], targets labels."""

    label_smoothing: float = 0.0

    def loss(self, logits: Tensor, labels: Tensor) -> Tensor:
        """Cross-entropy."""
        return F.cross_entropy(logits.float(), labels, label_smoothing=self.label_smoothing)

    def count_errors(self, logits: Tensor, labels: Tensor) -> Tensor:
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

    def score(self, predictions: Predictions) -> list[Metric]:
        """top1_error with its binomial standard error, errors, n, likelihood; top5_error of many classes."""
        labels, predicted, probabilities = predictions
        n, classes = probabilities.shape
        errors = int((labels != predicted).sum())
        # A diverged network may give the true class a probability that float64 cannot hold: it counts as 708 nats.
        true = np.maximum(probabilities[np.arange(n), labels], np.finfo(np.float64).tiny)
        likelihood = round(float(-np.log(true).mean()), 6)
        found = [
            _percentage("top1_error", errors / n, n),
            Metric("errors", errors, "images", "lower"),
            Metric("n", n, "images", None),
            Metric("negative_log_likelihood", likelihood, "nats", "lower"),
        ]
        if classes >= 50:  # ten times as many
            # Of equals the lowest class, as the prediction is.
            top5 = np.argsort(-probabilities, axis=1, kind="stable")[:, :5]
            found.append(_percentage("top5_error", 1 - float((top5 == labels[:, None]).any(1).mean()), n))
        return found


def _percentage(name: str, rate: float, n: int) -> Metric:
    error = round(100 * math.sqrt(rate * (1 - rate) / n), 6)
    return Metric(name, round(100 * rate, 6), "%", "lower", error)


def metrics(labels: Ints, predicted: Ints, probabilities: npt.NDArray[np.float64]) -> dict[str, float]:
    """What metrics.json says of these predictions."""
    return for_file(Classification().score(Predictions(labels, predicted, probabilities)))
