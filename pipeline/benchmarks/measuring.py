"""What the benchmarks share: spreads of repeated measurements, this machine's ceiling, and interleaving."""

import statistics
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from typing import Any, ParamSpec, TypeVar

import torch

from pipeline.kernels.apply import explain_no_compiling
from pipeline.params import Device, Precision
from pipeline.runner.waiting import on_own_core
from pipeline.training import device as devices

DTYPES: dict[Precision, torch.dtype] = {"fp32": torch.float32, "bf16": torch.bfloat16}
_BURST = 16
"""Products that a GPU is given before it is waited for: it takes thousands at once, and would be busy for a minute."""
MATRIX_SIZES = (1024, 2048, 4096)
_LONG = 2.0
"""Seconds of a product after which no larger one is tried: of bfloat16 where it is emulated."""

P = ParamSpec("P")
T = TypeVar("T")


@dataclass(frozen=True)
class Spread:
    """A value measured several times."""

    median: float
    low: float
    high: float
    n: int

    def __str__(self) -> str:
        digits = 0 if self.median >= 100 else 1
        return f"{self.median:,.{digits}f} ({self.low:,.{digits}f} to {self.high:,.{digits}f})"


def spread(values: Sequence[float]) -> Spread:
    """Median and extremes of `values`, at least one."""
    return Spread(statistics.median(values), min(values), max(values), len(values))


def ask(child: ProcessPoolExecutor, function: Callable[P, T], *arguments: P.args, **options: P.kwargs) -> T:
    """What `function` answers in `child`. Raises what it raises there; of torch.compile's errors a WrnPipeError."""
    return child.submit(_explained, function, arguments, options).result()


def _explained(function: Callable[..., T], arguments: Sequence[Any], options: dict[str, Any]) -> T:
    with explain_no_compiling():
        return function(*arguments, **options)


setting: Device = "auto"
"""Of the device that this process measures on."""


def device() -> torch.device:
    """Where to measure."""
    return devices.choose(setting)


def wait(device: torch.device) -> None:
    """Until it has done what it was given; a CPU always has."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def seconds_of(step: Callable[[], object], at_least: float) -> float:
    """Mean seconds of one `step`, called until `at_least` seconds are over; waits for a GPU to finish."""
    steps, started = 0, time.perf_counter()
    while time.perf_counter() - started < at_least:
        step()
        steps += 1
    wait(device())
    return (time.perf_counter() - started) / steps


def matrix_rate(precision: Precision) -> float:
    """FLOP a second (2 for each multiply-add) of a square matrix product, for the best of a few sizes."""
    best = 0.0
    with on_own_core():
        for size in MATRIX_SIZES:
            best = max(best, rate := _matrix_rate(device(), DTYPES[precision], size, 0.2))
            if 2 * size**3 / rate > _LONG:
                break
    return best


def _matrix_rate(device: torch.device, dtype: torch.dtype, size: int, at_least: float) -> float:
    """The same of one size, repeated for `at_least` seconds."""
    left, right = (torch.randn(size, size, device=device).to(dtype) for _ in range(2))
    torch.mm(left, right)
    wait(device)
    burst = _BURST if device.type == "cuda" else 1
    products, started = 0, time.perf_counter()
    while (elapsed := time.perf_counter() - started) < at_least:
        for _ in range(burst):
            torch.mm(left, right)
        wait(device)
        products += burst
    return 2 * size**3 * products / elapsed
