"""What the training loop and the evaluation ask of a task. A new one is a class of these methods and a line below."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol

from torch import Tensor, nn

from pipeline.artifacts import Predictions
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


def about(plan: Plan, run_id: str) -> dict[str, float | int | str]:
    """What metrics.json says besides the metrics: of which run they are, and on which images."""
    run = plan.run(run_id)
    split = "held-out" if plan.protocols[run.protocol].holdout else "test"
    return {"run": run_id, "dataset": run.dataset, "network": run.network, "split": split}


def task_of(plan: Plan, run_id: str) -> Task:
    """The task of a run of the plan."""
    from pipeline.tasks.classification import Classification

    return Classification(plan.protocols[plan.run(run_id).protocol].label_smoothing)
