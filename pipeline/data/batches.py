"""Mini-batches as the network takes them: augmented, normalised, in its precision, on its device."""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from functools import cache
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from numba import njit

from pipeline.data import color
from pipeline.data.augmentation import RandomCrops, flips, offsets, sources
from pipeline.data.digest import Stored
from pipeline.data.loader import Batch, Ints, Loader
from pipeline.data.preprocessing import Preprocessing
from pipeline.data.sampler import WHOLE, Shard
from pipeline.params import Color, Crop, Flip

Words = npt.NDArray[np.uint16 | np.uint32]
_WORDS = {torch.float32: torch.uint32, torch.bfloat16: torch.uint16}

Moves = tuple[npt.NDArray[np.bool_], Ints, Ints]
"""Of each sample: whether it is mirrored, and its row and column in the padded image."""
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
        """The shard's part of each mini-batch of `order`, an epoch's indices from its batch number `first` on."""
        # An epoch's draws at once, 1 ms for 50,000 images: batch by batch they would cost a third of the pixels' time.
        size = self.batch_size or self.loader.batch_size
        mirrored = flips(self.flip, self.seed, epoch, order, size)
        rows, columns = offsets(self.crop, self.seed, epoch, order, first + np.arange(len(order)) // size)
        own = self.shard.positions(len(order), size)  # after the draws, some of which are for a mini-batch as a whole
        order, moves = order[own], (mirrored[own], rows[own], columns[own])
        crops = RandomCrops(self.seed, epoch) if self.crop == "random-resized" else None
        if self.device.type == "cpu" and self.color == "none":
            return self.by_numba(self.loader.views(order, crops), moves)
        parts = self.streamed(order, crops) if crops else self.resident(order)
        return self.by_torch(parts, moves, epoch)

    def by_numba(self, views: Iterable[Batch], moves: Moves) -> Iterator[Input]:
        """The mini-batches of `views`, moved so, on the CPU."""
        table, words = self.preprocessing.table(self.dtype), _WORDS[self.dtype]
        bits = None if table is None else table.view(words).numpy()
        (mirrored, rows, columns), start = moves, 0
        for view in views:
            part = slice(start, start + len(view.at))
            start = part.stop
            out = torch.empty((len(view.at), *view.images.shape[1:]), dtype=words)
            fill(out.numpy(), view.images, view.at, (mirrored[part], rows[part], columns[part]), bits)
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

    def streamed(self, order: Ints, crops: RandomCrops | None) -> Iterator[_OnDevice]:
        """The same of a split that does not fit on the device: each mini-batch is copied there as it is."""
        for batch in self.loader.batches(order, crops):
            yield batch.indices, self._sent(batch.images), self._sent(batch.at), self._sent(batch.labels)

    def by_torch(self, parts: Iterable[_OnDevice], moves: Moves, epoch: int) -> Iterator[Input]:
        """The mini-batches `parts`, moved so, on any device. Never waits for it."""
        sent, start = [self._sent(each) for each in moves], 0
        for indices, stored, at, labels in parts:
            images = augment(stored, at, *(each[start : start + len(indices)] for each in sent))
            start += len(indices)
            if self.color != "none":
                drawn = color.coefficients(self.seed, epoch, indices)
                images = color.apply(images.float(), *(self._sent(each) for each in drawn))
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
    images: [N,H,W,3]; at, rows, columns: int64 [B]; mirrored: bool [B]; all on one device."""
    down, across = _on(images.device, *images.shape[1:3])
    return images[at[:, None, None], down[rows][:, :, None], across[mirrored.long(), columns][:, None, :]]


@cache
def _on(device: torch.device, height: int, width: int) -> tuple[torch.Tensor, torch.Tensor]:
    """`sources` on a device, copied there once: a copy would wait for the device."""
    down, across = (torch.from_numpy(table).to(device) for table in sources(height, width))
    return down, across


def _compiled(function: Callable[..., Any]) -> Any:
    """Compiled at the first call and kept on disk, under the time and size of this file: import costs no compiling."""
    try:
        return njit(nogil=True, cache=True)(function)
    except RuntimeError:
        return njit(nogil=True)(function)  # nowhere to write: neither this checkout nor the user's cache folder


@_compiled
def _bf16(word):  # type: ignore[no-untyped-def]
    """The bits of a finite float32 -> those of the nearest bfloat16, ties to even, as torch rounds."""
    return np.uint16((word + np.uint32(0x7FFF) + ((word >> np.uint32(16)) & np.uint32(1))) >> np.uint32(16))


def fill(out: Words, images: Stored, at: Ints, moves: Moves, table: Words | None) -> None:
    """Write images[at[i]], moved, to out[i], on one thread: the bits that `augment`, then `Preprocessing`, then a cast
    give.

    out: [B,H,W,3], the bits of float32 or bfloat16. images: [N,H,W,3], a whole split or a batch: bytes, which go
    through `table` [3,256], bits by channel and byte; or without a table finite float32, which move and are rounded.
    """
    height, width = images.shape[1:3]
    stored = images if table is not None else images.view(np.uint32)
    lines = -1, height, 3 * width
    down, across = sources(height, width)
    _fill(out.reshape(lines), stored.reshape(lines), at, *moves, down, 3 * across, table)


@_compiled
def _fill(out, stored, at, mirrored, rows, columns, down, across, table):  # type: ignore[no-untyped-def]
    # Unsigned: numba then leaves out the test for an index that counts from the end.
    green, blue = np.uint64(1), np.uint64(2)
    for i in range(len(at)):
        if not (0 <= at[i] < len(stored) and 0 <= rows[i] < len(down) and 0 <= columns[i] < len(down)):
            raise IndexError("no such image or crop")  # compiled code would read past the end
        image, to = stored[at[i]], out[i]
        ys, xs = down[rows[i]], across[np.int64(mirrored[i]), columns[i]]
        for y in range(len(to)):
            line, target = image[ys[y]], to[y]
            for x in range(len(xs)):
                source, place = np.uint64(xs[x]), np.uint64(3 * x)
                # numba leaves out the branches that the arguments' types rule out.
                if table is not None:
                    target[place] = table[0, line[source]]
                    target[place + green] = table[1, line[source + green]]
                    target[place + blue] = table[2, line[source + blue]]
                elif target.itemsize == 4:
                    target[place] = line[source]
                    target[place + green] = line[source + green]
                    target[place + blue] = line[source + blue]
                else:
                    target[place] = _bf16(line[source])
                    target[place + green] = _bf16(line[source + green])
                    target[place + blue] = _bf16(line[source + blue])
