"""What the benchmarks share: processes to measure in, spreads of repeats, the machine.

torch is imported late: a process binds its threads first.
"""

import os
import platform
import statistics
import time
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing import active_children, get_context
from typing import TYPE_CHECKING, ParamSpec, TypeVar

from pipeline.progress import say
from pipeline.runner.interruptions import children_hear_no_signal
from pipeline.runner.launch import end_with

if TYPE_CHECKING:
    import torch

    from pipeline.params import Device, Precision

P = ParamSpec("P")
T = TypeVar("T")
K = TypeVar("K", bound=Hashable)
_setting: "Device" = "auto"
"""Of the device that this process measures on."""


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


def in_rounds(measures: Mapping[K, Callable[[], float]], repeats: int, what: str = "") -> dict[K, Spread]:
    """Median and extremes of each of `measures`, all of which are taken once in every round."""
    values: dict[K, list[float]] = {key: [] for key in measures}
    for number in range(repeats):
        say(f"{what}round {number + 1} of {repeats}")
        for key, measure in measures.items():
            values[key].append(measure())
    return {key: Spread(statistics.median(of), min(of), max(of), repeats) for key, of in values.items()}


@contextmanager
def process(prepared: bool, setting: "Device" = "auto", cores: Sequence[int] = ()) -> Iterator[ProcessPoolExecutor]:
    """A fresh process to measure in, on the device of `setting`, held to `cores`, if any, and `prepared` as the train
    stage prepares its own, which cannot be undone. Whatever ends the block early, a signal as well, ends it at once.

    Raises UserError where there is no such device.
    """
    from pipeline.training.device import choose

    choose(setting)  # raises UserError here: what _start raises is lost
    with ProcessPoolExecutor(1, get_context("spawn"), _start, (os.getpid(), prepared, setting, cores)) as pool:
        try:
            with children_hear_no_signal():
                pool.submit(int)  # which starts it
            yield pool
        except BaseException:
            for running in active_children():
                running.kill()
            raise


def _start(parent: int, prepared: bool, setting: "Device", cores: Sequence[int]) -> None:
    global _setting
    _setting = setting
    end_with(parent)  # a worker of a killed pool would measure on
    if cores:
        os.sched_setaffinity(0, cores)
    if prepared:
        os.environ.setdefault("THP_MEM_ALLOC_ENABLE", "1")
        from pipeline.training.device import prepare

        prepare(device())


def ask(child: ProcessPoolExecutor, function: Callable[P, T], *arguments: P.args, **options: P.kwargs) -> T:
    """What `function` answers in `child`. Raises what it raises there."""
    return child.submit(function, *arguments, **options).result()


def say_if_busy() -> None:
    """Say that others have been at work here in the last minute, if they have: rates would be too low."""
    load, cores = os.getloadavg()[0], len(os.sched_getaffinity(0))
    if load > cores / 4:
        say(f"others were at work here in the last minute (load {load:.1f} on {cores} cores): rates may be too low")


def device() -> "torch.device":
    """Where this process measures."""
    from pipeline.training.device import choose

    return choose(_setting)


def seconds_of(step: Callable[[], object], at_least: float) -> float:
    """Mean seconds of one `step`, called until `at_least` seconds are over; waits for a GPU to finish."""
    import torch

    steps, started = 0, time.perf_counter()
    while not steps or time.perf_counter() - started < at_least:
        step()
        steps += 1
    if device().type == "cuda":
        torch.cuda.synchronize()
    return (time.perf_counter() - started) / steps


def peak_gemm(precision: "Precision") -> float:
    """10^9 FLOP a second (2 for each multiply-add) of a square matrix product, for the best of a few sizes."""
    import torch
    from torch.utils.benchmark import Timer

    rates, dtype = [], torch.bfloat16 if precision == "bf16" else torch.float32
    for size in (1024, 2048, 4096):
        left, right = (torch.randn(size, size, device=device()).to(dtype) for _ in range(2))
        factors = {"left": left, "right": right}
        timer = Timer("left @ right", globals=factors, num_threads=torch.get_num_threads())
        rates.append(2e-9 * size**3 / timer.blocked_autorange(min_run_time=0.2).mean)
    return max(rates)


def machine() -> dict[str, str]:
    """Device, versions and settings of this process, in words, for whoever reads a measurement elsewhere."""
    import torch

    from pipeline.training.device import facts

    here = {key: str(value) for key, value in facts(device()).items()}
    here |= {"system": platform.platform(terse=True), "cores": str(os.cpu_count()), "torch": torch.__version__}
    if device().type == "cuda":
        here["gpu"] = str(torch.cuda.get_device_properties(device()))
    here["deterministic"] = str(torch.are_deterministic_algorithms_enabled())
    names = ("OMP_", "GOMP_", "KMP_", "PYTORCH_", "TORCH", "THP_", "CUBLAS_", "CUDA_", "MALLOC_", "LD_PRELOAD")
    here["environment"] = " ".join(f"{k}={v}" for k, v in sorted(os.environ.items()) if k.startswith(names)) or "none"
    return here
