"""`wrn-pipe bench loader`: images a second of several ways to load and augment a training split.

Each ends in float32 [B,3,H,W] tensors with a flip and a crop of every image from a 4-pixel border of its reflection.
"""

import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack
from functools import cache, partial
from itertools import count, product, repeat
from pathlib import Path
from typing import Any

import torch
from torch.utils.data import DataLoader

from pipeline.benchmarks import measuring
from pipeline.benchmarks.measuring import ask, in_rounds, machine, process, seconds_of
from pipeline.data.augmentation import PAD
from pipeline.data.batches import Inputs, Preprocessing
from pipeline.data.beton import open_split, read
from pipeline.data.loader import Loader
from pipeline.data.sampler import sample_order
from pipeline.errors import UserError
from pipeline.params import Backend
from pipeline.progress import say

BATCH = 128
Epochs = Iterator[Iterable[tuple[Any, Any]]]
"""Without end; each gives its batches, images and labels."""


def ours(backend: Backend, dtype: torch.dtype, folder: Path, workers: int, batch: int = BATCH) -> Epochs:
    """What training does where this process measures: our order and draws, one compiled pass for each batch."""
    loader, device = Loader(folder, "train", batch, backend, workers), measuring.device()
    inputs = Inputs(loader, Preprocessing("meanstd").to(device), "per-image", "per-image", 1, dtype, device)
    for epoch in count():
        parts = inputs.batches(epoch, sample_order(1, epoch, loader.samples))
        yield ((part.images, part.labels) for part in parts)


def torchvision(folder: Path, workers: int, batch: int = BATCH) -> Epochs:
    """PIL transforms in a DataLoader's worker processes, as public ports of the paper do."""
    from torchvision import datasets, transforms

    meanstd = Preprocessing("meanstd")
    transform = transforms.Compose(
        [
            transforms.RandomCrop(32, padding=PAD, padding_mode="reflect"),
            transforms.RandomHorizontalFlip(),
            transforms.ToTensor(),
            transforms.Normalize((meanstd.mean / 255).tolist(), (meanstd.std / 255).tolist()),
        ]
    )
    data = datasets.CIFAR10.__new__(datasets.CIFAR10)  # one PIL image at a time, of what lies here already
    data.data, labels = read(open_split(folder, "train").path)
    data.targets, data.transform, data.target_transform = labels.tolist(), transform, None
    return repeat(DataLoader(data, batch, shuffle=True, num_workers=workers))


TORCHVISION = "torchvision DataLoader"
WAYS: dict[str, Callable[[Path, int], Epochs]] = {
    "ours over FFCV": partial(ours, "ffcv", torch.float32),
    "ours over numpy": partial(ours, "numpy", torch.float32),
    TORCHVISION: torchvision,
}


def bench(folder: Path, ways: Sequence[str], workers: Sequence[int], repeats: int) -> dict[str, Any]:
    """Measure the train split in `folder` (data/beton/<dataset>-rgb) in rounds, each way once a round, its process and
    all its workers held to as many cores as it has workers.

    `times_torchvision` is over the median of the DataLoader with the most workers, None where that is not measured.
    Raises UserError where the split is missing or no bytes, or the machine has fewer cores than workers are asked for.
    """
    beton = open_split(folder, "train")
    if beton.kind != "rgb":
        raise UserError(f"{folder} holds {beton.kind} images, which the other ways do not take", "choose an rgb one")
    cores = sorted(os.sched_getaffinity(0))
    if max(workers) > len(cores):
        raise UserError(f"{max(workers)} workers, but this process may use {len(cores)} cores", "ask for fewer workers")
    measures = {}
    with ExitStack() as stack:
        for way, number in product(ways, workers):
            if number > 1 and way == "ours over numpy":
                continue  # it reads with one thread whatever it is given
            say(f"start {way}, cores: {number}")
            # As the train stage prepares its process: the DataLoader is no slower with it.
            child = stack.enter_context(process(True, setting="cpu", cores=cores[:number]))
            if way != TORCHVISION:  # which has nothing to compile
                ask(child, _rate, way, folder, number, 0.0)
            measures[way, number] = partial(ask, child, _rate, way, folder, number, 1.0)
        spreads, here = in_rounds(measures, repeats), ask(child, machine)
    reference = spreads.get((TORCHVISION, max(workers)))
    rates = [
        {"way": way, "workers": number, "images_per_s": of}
        | {"times_torchvision": of.median / reference.median if reference else None}
        for (way, number), of in spreads.items()
    ]
    return {"machine": here, "data": folder.name, "images": len(beton.labels), "batch": BATCH, "rates": rates}


@cache
def _epochs(way: str, folder: Path, workers: int) -> Epochs:
    return WAYS[way](folder, workers)


def _rate(way: str, folder: Path, workers: int, at_least: float) -> float:
    """In the child: images a second over whole epochs, one or more."""
    epochs, images = _epochs(way, folder, workers), list[int]()
    seconds = seconds_of(lambda: images.append(sum(len(labels) for _, labels in next(epochs))), at_least)
    return images[0] / seconds
