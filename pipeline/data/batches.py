"""Mini-batches as the network takes them: augmented, normalised, in its precision, on its device."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from functools import cache
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from pipeline.data import color
from pipeline.data.augmentation import flips, offsets, sources
from pipeline.data.loader import Batch, Ints, Loader
from pipeline.data.numba_kernel import Bools, fill
from pipeline.data.preprocessing import Preprocessing
from pipeline.data.resized_crop import RandomCrops
from pipeline.data.sampler import WHOLE, Shard
from pipeline.params import Color, Crop, Flip

_WORDS = {torch.float32: torch.uint32, torch.bfloat16: torch.uint16}

_OnDevice = tuple[Ints, torch.Tensor, torch.Tensor, torch.Tensor]
"""A mini-batch of samples: which, and on the device images, where among these each sample's is, and labels."""


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
    once, or of JPEGs batch by batch, and the batches are made there, by torch; with `color` so they are on the CPU too.
    `dtype` is float32, or bfloat16 with the bits that autocast rounds to. Of each mini-batch of `batch_size`, the
    loader's unless said, it sees what `shard` takes; the loader's is then the shard's size of it.
    """

    loader: Loader
    preprocessing: Preprocessing
    flip: Flip
    crop: Crop
    seed: int
    dtype: torch.dtype
    device: torch.device
    shard: Shard = WHOLE
    batch_size: int | None = None
    color: Color = "none"
    split: tuple[torch.Tensor, torch.Tensor] | None = field(default=None, init=False)

    def batches(self, epoch: int, order: Ints, first: int = 0) -> Iterator[Input]:
        """The mini-batches of `order`, an epoch's indices from its batch number `first` on: the shard's part of each.
        Raises TypeError for images that were not stored for this preprocessing."""
        # An epoch's draws at once, 1 ms for 50,000 images: batch by batch they would cost a third of the pixels' time.
        size = self.batch_size or self.loader.batch_size
        mirrored = flips(self.flip, self.seed, epoch, order, size)
        rows, columns = offsets(self.crop, self.seed, epoch, order, first + np.arange(len(order)) // size)
        if self.shard.of > 1:  # after the draws, some of which are for a mini-batch as a whole
            own = self.shard.positions(len(order), size)
            order, mirrored, rows, columns = order[own], mirrored[own], rows[own], columns[own]
        crops = RandomCrops(self.seed, epoch) if self.crop == "random-resized" else None
        if self.device.type == "cpu" and self.color == "none":
            return self.by_numba(self.loader.views(order, crops), mirrored, rows, columns)
        if crops is None and self.color == "none":
            return self.by_torch(self.resident(order), mirrored, rows, columns, epoch)
        return self.by_torch(self.streamed(order, crops), mirrored, rows, columns, epoch)

    def by_numba(self, views: Iterable[Batch], mirrored: Bools, rows: Ints, columns: Ints) -> Iterator[Input]:
        """The mini-batches of `views`, with these flips and offsets, on the CPU."""
        table = self.preprocessing.table(self.dtype)
        words = None if table is None else table.view(_WORDS[self.dtype]).numpy()
        start = 0
        for view in views:
            self.preprocessing.check(torch.from_numpy(view.images))
            out = torch.empty((len(view.at), *view.images.shape[1:]), dtype=_WORDS[self.dtype])
            part = slice(start, start + len(view.at))
            fill(out.numpy(), view.images, view.at, mirrored[part], rows[part], columns[part], words)
            start = part.stop
            yield Input(view.indices, out.view(self.dtype).permute(0, 3, 1, 2), torch.from_numpy(view.labels))

    def resident(self, order: Ints) -> Iterator[_OnDevice]:
        """The mini-batches of `order`, each as places in the split, which is copied to the device once."""
        if self.split is None:
            whole = list(self.loader.batches(np.arange(self.loader.samples)))
            images = np.concatenate([batch.images for batch in whole])
            self.split = self._sent(images), self._sent(np.concatenate([batch.labels for batch in whole]))
        stored, labels = self.split
        at = self._sent(order)
        for start in range(0, len(order), self.loader.batch_size):
            part = slice(start, start + self.loader.batch_size)
            yield order[part], stored, at[part], labels[at[part]]

    def streamed(self, order: Ints, crops: RandomCrops | None) -> Iterator[_OnDevice]:
        """The same of a split that does not fit on the device: each mini-batch is copied there as it is."""
        for batch in self.loader.batches(order, crops):
            yield batch.indices, self._sent(batch.images), self._sent(batch.at), self._sent(batch.labels)

    def by_torch(
        self, parts: Iterable[_OnDevice], mirrored: Bools, rows: Ints, columns: Ints, epoch: int
    ) -> Iterator[Input]:
        """The mini-batches `parts`, with these flips and offsets, on any device. Never waits for it."""
        moves, start = [self._sent(each) for each in (mirrored, rows, columns)], 0
        for indices, stored, at, labels in parts:
            images = augment(stored, at, *(each[start : start + len(indices)] for each in moves))
            start += len(indices)
            self.preprocessing.check(images)
            if self.color != "none":
                drawn = color.coefficients(self.seed, epoch, indices)
                images = color.apply(images.float(), *(self._sent(each) for each in drawn))
            yield Input(indices, self.preprocessing.normalised(images).to(self.dtype), labels)

    def _sent(self, array: npt.NDArray[Any]) -> torch.Tensor:
        """A copy on the device. Only from page-locked memory does the process not wait for a GPU to have it."""
        tensor = torch.from_numpy(array)
        if self.device.type == "cuda":
            tensor = tensor.pin_memory()
        return tensor.to(self.device, non_blocking=True)


def augment(
    images: torch.Tensor, at: torch.Tensor, mirrored: torch.Tensor, rows: torch.Tensor, columns: torch.Tensor
) -> torch.Tensor:
    """`augmentation.augment` on any device: images[at[i]] mirrored, reflect-padded, cropped at (rows[i], columns[i]).
    images: [N,H,W,3]; at, rows, columns: int64 [B]; mirrored: bool [B]; all on one device. Waits for nothing."""
    height, width = images.shape[1:3]
    down = _on(images.device, height)[0][rows]
    straight, reverse = _on(images.device, width)
    across = torch.where(mirrored[:, None], reverse[columns], straight[columns])
    return images[at[:, None, None], down[:, :, None], across[:, None, :]]


@cache
def _on(device: torch.device, size: int) -> tuple[torch.Tensor, torch.Tensor]:
    """`sources(size)` on a device, copied there once: a copy would wait for the device."""
    straight, reverse = (torch.from_numpy(table).to(device) for table in sources(size))
    return straight, reverse
