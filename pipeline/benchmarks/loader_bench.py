"""`wrn-pipe bench loader`: images a second of several ways to load."""

import os
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from pipeline.benchmarks.measuring import Spread, child, spread
from pipeline.errors import UserError

if TYPE_CHECKING:
    from pipeline.benchmarks.loading_ways import Epoch

TORCHVISION = "torchvision DataLoader"
AT_LEAST_S = 1.0
"""A measurement takes whole epochs until this is over."""


@dataclass(frozen=True)
class Rate:
    """Images a second of one way, its process and all its workers held to as many cores as it has workers."""

    way: str
    workers: int
    images_per_s: Spread
    times_torchvision: float | None
    """Over the median of the DataLoader with the most workers, where that is measured too."""


@dataclass(frozen=True)
class Result:
    machine: dict[str, str | int]
    data: str
    images: int
    batch: int
    rates: list[Rate]


def bench(
    folder: Path, ways: Sequence[str], workers: Sequence[int], repeats: int, say: Callable[[str], None]
) -> Result:
    """Measure the train split in `folder` (data/beton/<dataset>-rgb) in rounds, each way once a round.

    Raises UserError where the split is missing or no bytes, or the machine has fewer cores than workers are asked for.
    """
    import torch

    from pipeline.benchmarks.loading_ways import BATCH
    from pipeline.data.beton import open_split
    from pipeline.training.device import facts

    beton = open_split(folder, "train")
    if beton.kind != "rgb":
        raise UserError(f"{folder} holds {beton.kind} images, which the other ways do not take", "choose an rgb one")
    cores = sorted(os.sched_getaffinity(0))
    if max(workers) > len(cores):
        raise UserError(f"{max(workers)} workers, but this process may use {len(cores)} cores", "ask for fewer workers")
    # Ours over numpy reads with one thread whatever it is given.
    rates: dict[tuple[str, int], list[float]] = {
        (way, count): [] for way in ways for count in workers if count == 1 or way != "ours over numpy"
    }
    with ExitStack() as stack:
        children = {}
        for way, count in rates:
            say(f"start {way}, cores: {count}")
            children[way, count] = stack.enter_context(child(_start, cores[:count]))
            children[way, count].submit(_open, way, folder, count).result()
        for repeat in range(repeats):
            say(f"round {repeat + 1} of {repeats}")
            for row, values in rates.items():
                values.append(children[row].submit(_rate).result())
    spreads = {row: spread(values) for row, values in rates.items()}
    reference = spreads.get((TORCHVISION, max(workers)))
    return Result(
        facts(torch.device("cpu")),
        folder.name,
        beton.samples,
        BATCH,
        [Rate(*row, of, of.median / reference.median if reference else None) for row, of in spreads.items()],
    )


_epoch: "Epoch"
_number = 0


def _start(cores: Sequence[int]) -> None:
    """In the child, before anything counts the cores; then as the train stage prepares its process.

    Every way gets this: it makes the tensor in memory four times as fast, and the DataLoader and FFCV's transforms no
    slower.
    """
    os.sched_setaffinity(0, cores)
    os.environ.setdefault("THP_MEM_ALLOC_ENABLE", "1")
    import torch

    from pipeline.training.device import prepare

    prepare(torch.device("cpu"))
    torch.set_num_threads(len(cores))


def _open(way: str, folder: Path, workers: int) -> None:
    """In the child: open the split and, but for the DataLoader, which has nothing to compile, deliver an epoch."""
    from pipeline.benchmarks.loading_ways import WAYS

    global _epoch
    _epoch = WAYS[way](folder, workers)
    if way != TORCHVISION:
        _deliver(0)


def _rate() -> float:
    """In the child: images a second over whole epochs."""
    global _number
    images, started = 0, time.perf_counter()
    while (seconds := time.perf_counter() - started) < AT_LEAST_S:
        _number += 1
        images += _deliver(_number)
    return images / seconds


def _deliver(number: int) -> int:
    return sum(len(labels) for _, labels in _epoch(number))
