"""What the training loop and the evaluation ask of a task, and the one that there is: classification of images.

A new one is a class of the same methods and a line in `task_of`.
"""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pipeline.artifacts import Predictions
from pipeline.data.loader import Ints
from pipeline.params import Plan


@dataclass(frozen=True)
class Metric:
    """One number that a run is scored by."""

    name: str
    """Its key in metrics.json."""
    value: float
    unit: str
    better: Literal["lower", "higher"] | None
    """Its direction; None where neither is, as of a count of images."""
    standard_error: float | None = None
    """Of the value as an estimate from the images evaluated, in `unit`."""


def for_file(metrics: Sequence[Metric]) -> dict[str, float]:
    """What metrics.json says of them; `standard_error` there is that of the first, the task's headline."""
    values = {metric.name: metric.value for metric in metrics}
    headline = metrics[0].standard_error
    return values if headline is None else values | {"standard_error": headline}


class Task(Protocol):
    """What a run optimises and how it is scored. `outputs` are the network's, `targets` the loader's."""

    def loss(self, outputs: Any, targets: Tensor) -> Tensor:
        """Mean over the samples of a mini-batch, in float32, whatever the outputs' precision is."""

    def count_errors(self, outputs: Any, targets: Tensor) -> Tensor:
        """Samples of a mini-batch that the network got wrong, for history.csv; on their device."""

    def predict(self, model: nn.Module, batches: Iterable[tuple[Tensor, Any]]) -> Predictions:
        """Of normalised images with their targets, in their order."""

    def score(self, predictions: Predictions) -> Sequence[Metric]:
        """The metrics of predictions, the one that the paper reports first."""


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


def about(plan: Plan, run_id: str) -> dict[str, float | int | str]:
    """What metrics.json says besides the metrics: of which run they are, and on which images."""
    run = plan.run(run_id)
    split = "held-out" if plan.protocols[run.protocol].holdout else "test"
    return {"run": run_id, "dataset": run.dataset, "network": run.network, "split": split}


def task_of(plan: Plan, run_id: str) -> Task:
    """The task of a run of the plan."""
    return Classification(plan.protocols[plan.run(run_id).protocol].label_smoothing)
