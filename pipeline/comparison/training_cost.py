"""What a training costs, estimated from its multiply-adds before anything has run. Real times differ by some factor:
small networks leave a GPU waiting, and every machine has its own rate."""

import functools
from dataclasses import dataclass

from pipeline.models.names import multiply_adds, parse
from pipeline.params import Precision, Protocol

FORWARD_AND_BACKWARD = 3
"""Multiply-adds of a training step over those of a forward pass: the backward pass has two products for each one."""
_WRN_40_1 = FORWARD_AND_BACKWARD * 83_280_512
_RATES: dict[Precision, tuple[float, float]] = {"bf16": (10e12, 900 * _WRN_40_1), "fp32": (5e12, 450 * _WRN_40_1)}
"""Multiply-adds a second. On a GPU, an assumption: 20 and 10 TFLOP/s sustained in a data centre (2 FLOP each). On 2 CPU
cores with native bfloat16 (AMX): WRN-40-1, whose multiply-adds for an image of CIFAR are above, trains at 900 images/s
in bf16, which was measured; fp32 is taken for half as fast."""


@dataclass(frozen=True)
class Cost:
    """Of one or more trainings, by either kind of machine."""

    gpu_hours: float
    cpu_hours: float
    """Hours on 2 CPU cores."""

    def __add__(self, other: "Cost") -> "Cost":
        return Cost(self.gpu_hours + other.gpu_hours, self.cpu_hours + other.cpu_hours)

    def __mul__(self, runs: float) -> "Cost":
        return Cost(self.gpu_hours * runs, self.cpu_hours * runs)

    def __str__(self) -> str:
        return f"{_hours(self.gpu_hours)} GPU-hours or {_hours(self.cpu_hours)} hours on 2 CPU cores"


def training_cost(network: str, images: int, protocol: Protocol) -> Cost:
    """Cost of one training on `images` images an epoch; evaluation and reading the images are not counted."""
    total = training_multiply_adds(network, images, protocol.epochs)
    return Cost(*(total / rate / 3600 for rate in _RATES[protocol.precision]))


@functools.cache
def training_multiply_adds(network: str, images: int, epochs: int) -> int:
    """Multiply-adds of one training with `images` images an epoch, forward and backward, at the published size."""
    built = parse(network)
    forward = multiply_adds(built, built.image_size, built.num_classes)
    return forward * FORWARD_AND_BACKWARD * images * epochs


def _hours(value: float) -> str:
    """Two significant digits: an estimate has no more."""
    if value < 0.01:
        return "below 0.01"
    return f"{float(f'{value:.2g}'):,.{0 if value >= 9.95 else 1 if value >= 0.995 else 2}f}"
