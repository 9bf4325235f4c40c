"""`wrn-pipe bench loader`: images a second of several ways to load and augment a training split.

Each ends in float32 [B,3,H,W] tensors with a flip and a crop of every image from a 4-pixel border: of its reflection,
as in the paper, but of a constant where FFCV's own transforms draw it.
"""

import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import cache, partial
from itertools import count, product
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch.utils.data import DataLoader, Dataset

from pipeline.benchmarks.measuring import Spread, ask, in_rounds, machine, process, seconds_of
from pipeline.data.augmentation import PAD
from pipeline.data.batches import Inputs, Preprocessing
from pipeline.data.beton import IMAGE, LABEL, open_split, read
from pipeline.data.digest import Stored
from pipeline.data.loader import Loader
from pipeline.data.sampler import Ints, sample_order
from pipeline.errors import UserError
from pipeline.params import Backend
from pipeline.progress import say

BATCH = 128
AT_LEAST_S = 1.0
"""A measurement takes whole epochs until this is over."""
MEANSTD = Preprocessing("meanstd")
CPU = torch.device("cpu")

Epoch = Callable[[int], Iterable[tuple[Any, Any]]]
"""All batches of an epoch, images and labels, given its number."""


def ours(
    backend: Backend, dtype: torch.dtype, folder: Path, workers: int, batch: int = BATCH, device: torch.device = CPU
) -> Epoch:
    """What training does: our order and draws, one compiled pass for each batch."""
    loader = Loader(folder, "train", batch, backend, workers)
    inputs = Inputs(loader, Preprocessing("meanstd").to(device), "per-image", "per-image", 1, dtype, device)

    def epoch(number: int) -> Iterator[tuple[Any, Any]]:
        for part in inputs.batches(number, sample_order(1, number, loader.samples)):
            yield part.images, part.labels

    return epoch


def ffcv(folder: Path, workers: int) -> Epoch:
    """FFCV with its own transforms, as its documentation combines them."""
    from ffcv import transforms
    from ffcv.fields.basics import IntDecoder
    from ffcv.fields.rgb_image import SimpleRGBImageDecoder
    from ffcv.loader import Loader as FfcvLoader
    from ffcv.loader import OrderOption

    mean, std = MEANSTD.mean.numpy(), MEANSTD.std.numpy()
    pixels = [
        SimpleRGBImageDecoder(),
        transforms.RandomHorizontalFlip(),
        transforms.RandomTranslate(PAD, tuple(int(value) for value in mean)),
        transforms.NormalizeImage(mean, std, np.float32),
        transforms.ToTensor(),
        transforms.ToTorchImage(),
    ]
    labels = [IntDecoder(), transforms.ToTensor(), transforms.Squeeze(1)]
    loader = FfcvLoader(
        str(open_split(folder, "train").path),
        batch_size=BATCH,
        num_workers=workers,
        os_cache=True,
        order=OrderOption.RANDOM,
        seed=1,
        pipelines={IMAGE: pixels, LABEL: labels},
    )
    return lambda number: loader


class _Pictures(Dataset[Any]):
    """As torchvision's CIFAR10: one PIL image at a time."""

    def __init__(self, images: Stored, labels: Ints, transform: Callable[[Any], torch.Tensor]) -> None:
        self.images, self.labels, self.transform = images, labels, transform

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, i: int) -> tuple[torch.Tensor, int]:
        from PIL import Image

        return self.transform(Image.fromarray(self.images[i])), int(self.labels[i])


def torchvision(folder: Path, workers: int, batch: int = BATCH) -> Epoch:
    """PIL transforms in a DataLoader's worker processes, as public ports of the paper do."""
    from torchvision import transforms

    transform = transforms.Compose(
        [
            transforms.RandomCrop(32, padding=PAD, padding_mode="reflect"),
            transforms.RandomHorizontalFlip(),
            transforms.ToTensor(),
            transforms.Normalize((MEANSTD.mean / 255).tolist(), (MEANSTD.std / 255).tolist()),
        ]
    )
    data = _Pictures(*read(open_split(folder, "train").path), transform)
    loader: Iterable[Any] = DataLoader(data, batch, shuffle=True, num_workers=workers)
    return lambda number: loader


def ram_tensor(folder: Path, workers: int) -> Epoch:
    """As airbench: the split normalised and padded once, in memory; each epoch flipped and cropped as one tensor.

    By torch's own threads, which are as many as this process has cores.
    """
    images, labels = (torch.from_numpy(array) for array in read(open_split(folder, "train").path))
    n, size = len(labels), images.shape[2]
    padded = F.pad(MEANSTD(images), (PAD,) * 4, "reflect")

    def epoch(number: int) -> Iterator[tuple[Any, Any]]:
        flipped = torch.where((torch.rand(n) < 0.5).view(-1, 1, 1, 1), padded.flip(3), padded)
        down, across = torch.randint(2 * PAD + 1, (2, n))
        cropped = flipped.unfold(2, size, 1).unfold(3, size, 1)[torch.arange(n), :, down, across]
        for at in torch.split(torch.randperm(n), BATCH):
            yield cropped[at], labels[at]

    return epoch


TORCHVISION = "torchvision DataLoader"
WAYS: dict[str, Callable[[Path, int], Epoch]] = {
    "ours over FFCV": partial(ours, "ffcv", torch.float32),
    "ours over numpy": partial(ours, "numpy", torch.float32),
    "FFCV's own transforms": ffcv,
    TORCHVISION: torchvision,
    "RAM tensor, as airbench": ram_tensor,
}


@dataclass(frozen=True)
class Rate:
    """Images a second of one way, its process and all its workers held to as many cores as it has workers."""

    way: str
    workers: int
    images_per_s: Spread
    times_torchvision: float | None
    """Over the median of the DataLoader with the most workers, where that is measured too."""


def bench(folder: Path, ways: Sequence[str], workers: Sequence[int], repeats: int) -> dict[str, Any]:
    """Measure the train split in `folder` (data/beton/<dataset>-rgb) in rounds, each way once a round.

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
            # Each as the train stage prepares its process: the tensor in memory is four times as fast with it, and the
            # DataLoader and FFCV's transforms no slower.
            child = stack.enter_context(process(True, setting="cpu", cores=cores[:number]))
            if way != TORCHVISION:  # which has nothing to compile
                ask(child, _rate, way, folder, number, 0)
            measures[way, number] = partial(ask, child, _rate, way, folder, number, AT_LEAST_S)
        spreads, here = in_rounds(measures, repeats), ask(child, machine)
    reference = spreads.get((TORCHVISION, max(workers)))
    rates = [Rate(*row, of, of.median / reference.median if reference else None) for row, of in spreads.items()]
    return {"machine": here, "data": folder.name, "images": len(beton.labels), "batch": BATCH, "rates": rates}


@cache
def _opened(way: str, folder: Path, workers: int) -> tuple[Epoch, Iterator[int]]:
    return WAYS[way](folder, workers), count()


def _rate(way: str, folder: Path, workers: int, at_least: float) -> float:
    """In the child: images a second over whole epochs, one or more."""
    epoch, numbers = _opened(way, folder, workers)
    images: list[int] = []
    seconds = seconds_of(lambda: images.append(sum(len(labels) for _, labels in epoch(next(numbers)))), at_least)
    return images[0] / seconds
