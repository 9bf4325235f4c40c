"""A metric: its value with all that a reader needs to know of it."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal


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
