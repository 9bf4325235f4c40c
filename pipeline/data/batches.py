"""Mini-batches as the network takes them: augmented, normalised, in its precision, on its device."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from functools import cache, partial
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from numba import njit
from torch import nn

from pipeline.data import augmentation
from pipeline.data.augmentation import Boxes
from pipeline.data.digest import Stored
from pipeline.data.loader import Batch, Loader
from pipeline.data.sampler import Ints, Shard
from pipeline.params import Color, Crop, Flip, Normalisation

# The authors' code applies CIFAR-10's constants to CIFAR-100 as well. zca was whitened when the data was converted.
_CONSTANTS = {
    "meanstd": ((125.3, 123.0, 113.9), (63.0, 62.1, 66.7)),
    "imagenet": ((123.675, 116.28, 103.53), (58.395, 57.12, 57.375)),
    "unit": ((0.0, 0.0, 0.0), (255.0, 255.0, 255.0)),
    "zca": ((0.0, 0.0, 0.0), (1.0, 1.0, 1.0)),
}

Words = npt.NDArray[np.uint16 | np.uint32]
_WORDS = {torch.float32: torch.uint32, torch.bfloat16: torch.uint16}

_OnDevice = tuple[Ints, torch.Tensor, torch.Tensor, torch.Tensor]
"""A mini-batch of samples: which, and on the device images, where among these each sample's is, and labels."""


class Preprocessing(nn.Module):
    """[B,H,W,3], bytes or floats on their scale -> float32 [B,3,H,W] in channels_last memory: (pixel - mean) / std."""

    mean: torch.Tensor
    std: torch.Tensor

    def __init__(self, kind: Normalisation) -> None:
        super().__init__()
        mean, std = _CONSTANTS[kind]
        self.register_buffer("mean", torch.tensor(mean))
        self.register_buffer("std", torch.tensor(std))

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return ((images.float() - self.mean) / self.std).permute(0, 3, 1, 2)

    def table(self, dtype: torch.dtype) -> torch.Tensor:
        """[3,256]: what the bytes of each channel become, cast to `dtype`."""
        every = torch.arange(256, device=self.mean.device).view(1, 1, 256, 1).expand(1, 1, 256, 3)
        return self.forward(every)[0, :, 0].to(dtype).contiguous()


@dataclass(frozen=True)
class Input:
    """B samples: which, images [B,3,H,W] in channels_last memory, labels int64 [B]. The tensors are yours."""

    indices: Ints
    images: torch.Tensor
    labels: torch.Tensor


@dataclass
class Inputs:
    """What a training's network sees of a split, on `device`.

    On the CPU one compiled pass makes a batch from the loader's memory. To any other device the whole split is copied
    once, or of JPEGs batch by batch, and the batches are made there, by torch; with `color`, or of whitened images, so
    they are on the CPU too. `dtype` is float32, or bfloat16 with the bits that autocast rounds to. Of each mini-batch
    of `batch_size`, the loader's unless said, it sees what `shard` takes; the loader's is then the shard's size of it.
    """

    loader: Loader
    preprocessing: Preprocessing
    flip: Flip
    crop: Crop
    seed: int
    dtype: torch.dtype
    device: torch.device
    shard: Shard = field(default_factory=Shard)
    batch_size: int | None = None
    color: Color = "none"
    split: tuple[torch.Tensor, torch.Tensor] | None = field(default=None, init=False)

    def batches(self, epoch: int, order: Ints, first: int = 0) -> Iterator[Input]:
        """The shard's part of each mini-batch of `order`, an epoch's indices from its batch number `first` on."""
        # An epoch's draws at once, 1 ms for 50,000 images: batch by batch they would cost a third of the pixels' time.
        size = self.batch_size or self.loader.batch_size
        mirrored = augmentation.flips(self.flip, self.seed, epoch, order, size)
        corners = augmentation.offsets(self.crop, self.seed, epoch, order, first + np.arange(len(order)) // size)
        own = self.shard.positions(len(order), size)  # after the draws, some of which are for a mini-batch as a whole
        order, moves = order[own], np.stack([mirrored, *corners]).take(own, axis=1)
        random = self.crop == "random-resized"
        boxes: Boxes = partial(augmentation.random_boxes, self.seed, epoch) if random else augmentation.central_boxes
        on_cpu = self.device.type == "cpu"
        if on_cpu and self.color == "none" and self.loader.beton.kind != "zca":
            return self.by_numba(self.loader.views(order, boxes), moves)
        parts = self.streamed(order, boxes) if on_cpu or random else self.resident(order)
        return self.by_torch(parts, moves, epoch)

    def by_numba(self, views: Iterable[Batch], moves: Ints) -> Iterator[Input]:
        """The mini-batches of `views`, bytes, on the CPU. moves: [3,B], of each sample of the epoch whether it is
        mirrored, and its row and column in the padded image."""
        words = _WORDS[self.dtype]
        table = self.preprocessing.table(self.dtype).view(words).numpy()
        start = 0
        for view in views:
            out = torch.empty((len(view.at), *view.images.shape[1:]), dtype=words)
            fill(out.numpy(), view.images, view.at, moves[:, start : start + len(view.at)], table)
            start += len(view.at)
            yield Input(view.indices, out.view(self.dtype).permute(0, 3, 1, 2), torch.from_numpy(view.labels))

    def resident(self, order: Ints) -> Iterator[_OnDevice]:
        """The mini-batches of `order`, each as places in the split, which is copied to the device once."""
        if self.split is None:
            whole = list(self.loader.batches(np.arange(self.loader.samples)))
            images = self._sent(np.concatenate([batch.images for batch in whole]))
            self.split = images, self._sent(np.concatenate([batch.labels for batch in whole]))
        stored, labels = self.split
        at = self._sent(order)
        for start in range(0, len(order), self.loader.batch_size):
            part = slice(start, start + self.loader.batch_size)
            yield order[part], stored, at[part], labels[at[part]]

    def streamed(self, order: Ints, boxes: Boxes) -> Iterator[_OnDevice]:
        """The same of a split that does not fit on the device: each mini-batch is copied there as it is."""
        for batch in self.loader.batches(order, boxes):
            yield batch.indices, self._sent(batch.images), self._sent(batch.at), self._sent(batch.labels)

    def by_torch(self, parts: Iterable[_OnDevice], moves: Ints, epoch: int) -> Iterator[Input]:
        """The mini-batches `parts`, moved as by `by_numba`, on any device. Never waits for it."""
        sent, start = self._sent(moves), 0
        for indices, stored, at, labels in parts:
            images = augment(stored, at, *sent[:, start : start + len(indices)])
            start += len(indices)
            if self.color != "none":
                drawn = augmentation.color_draws(self.seed, epoch, indices)
                images = augmentation.colored(images.float(), *(self._sent(each) for each in drawn))
            yield Input(indices, self.preprocessing(images).to(self.dtype), labels)

    def _sent(self, array: npt.NDArray[Any]) -> torch.Tensor:
        """A copy on the device. Only from page-locked memory does the process not wait for a GPU to have it."""
        tensor = torch.from_numpy(array)
        if self.device.type == "cuda":
            tensor = tensor.pin_memory()
        return tensor.to(self.device, non_blocking=True)


def augment(
    images: torch.Tensor, at: torch.Tensor, mirrored: torch.Tensor, rows: torch.Tensor, columns: torch.Tensor
) -> torch.Tensor:
    """images[at[i]] mirrored, reflect-padded, cropped at (rows[i], columns[i]). Waits for nothing.
    images: [N,H,W,3]; the others: int64 [B]; all on one device."""
    down, across = _on(images.device, *images.shape[1:3])
    return images[at[:, None, None], down[rows][:, :, None], across[mirrored, columns][:, None, :]]


@cache
def _on(device: torch.device, height: int, width: int) -> tuple[torch.Tensor, torch.Tensor]:
    """`sources` on a device, copied there once: a copy would wait for the device."""
    down, across = (torch.from_numpy(table).to(device) for table in augmentation.sources(height, width))
    return down, across


def fill(out: Words, images: Stored, at: Ints, moves: Ints, table: Words) -> None:
    """Write images[at[i]], moved, to out[i], on one thread: the bits that `augment`, then `Preprocessing`, then a cast
    give.

    out: [B,H,W,3], the bits of float32 or bfloat16. images: bytes [N,H,W,3], a whole split or a batch. moves: [3,B], as
    of `Inputs.by_numba`. table: [3,256], bits by channel and byte.
    """
    height, width = images.shape[1:3]
    lines = -1, height, 3 * width
    down, across = augmentation.sources(height, width)
    _fill(out.reshape(lines), images.reshape(lines), at, *moves, down, 3 * across, table)  # type: ignore[call-arg]


# Kept on disk, under the time and size of this file: import costs no compiling.
@njit(nogil=True, cache=True)
def _fill(out, images, at, mirrored, rows, columns, down, across, table):  # type: ignore[no-untyped-def]
    # Unsigned: numba then leaves out the test for an index that counts from the end.
    green, blue = np.uint64(1), np.uint64(2)
    for i in range(len(at)):
        if not (0 <= at[i] < len(images) and 0 <= rows[i] < len(down) and 0 <= columns[i] < len(down)):
            raise IndexError("no such image or crop")  # compiled code would read past the end
        image, to = images[at[i]], out[i]
        ys, xs = down[rows[i]], across[mirrored[i], columns[i]]
        for y in range(len(to)):
            line, target = image[ys[y]], to[y]
            for x in range(len(xs)):
                source, place = np.uint64(xs[x]), np.uint64(3 * x)
                target[place] = table[0, line[source]]
                target[place + green] = table[1, line[source + green]]
                target[place + blue] = table[2, line[source + blue]]
