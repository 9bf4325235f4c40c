"""Mini-batches of stored images in an order of ours, by FFCV or by plain numpy: equal bytes from both."""

import queue
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from pipeline.datasets.digest import Stored
from pipeline.errors import UserError, WrnPipeError
from pipeline.loading.beton import IMAGE, LABEL, Beton, open_split, read
from pipeline.loading.quick_import import compiling_later

Backend = Literal["ffcv", "numpy"]
Ints = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Batch:
    """B samples: which, their images uint8 or float32 [B,H,W,3] as stored, their labels int64 [B]. Arrays are yours."""

    indices: Ints
    images: Stored
    labels: Ints


class Loader:
    """Delivers the samples of one split in any order asked for. Open it once: FFCV compiles for seconds.

    `workers` is FFCV's number of reading threads, at most the number of cores; the numpy backend reads with one.
    """

    def __init__(self, folder: Path, split: str, batch_size: int, backend: Backend, workers: int = 1) -> None:
        beton = open_split(folder, split)
        self.samples = beton.samples
        self.batch_size = batch_size
        self._source: _Numpy | _Ffcv = (
            _Ffcv(beton, batch_size, workers) if backend == "ffcv" else _Numpy(beton, batch_size)
        )

    def batches(self, order: Ints) -> Iterator[Batch]:
        """Consecutive mini-batches of `order` (int64 indices into the split), the last one possibly smaller."""
        if len(order) and (order.min() < 0 or order.max() >= self.samples):
            raise ValueError(f"indices {order.min()}..{order.max()} do not lie in a split of {self.samples}")
        return self._source.batches(order)


class _Numpy:
    def __init__(self, beton: Beton, batch_size: int) -> None:
        self.images, self.labels = read(beton.path)
        self.batch_size = batch_size

    def batches(self, order: Ints) -> Iterator[Batch]:
        for start in range(0, len(order), self.batch_size):
            indices = order[start : start + self.batch_size]
            yield Batch(indices, self.images[indices], self.labels[indices])


class _Order:
    """FFCV asks its traversal order for each epoch's indices."""

    def __init__(self, samples: int) -> None:
        self.indices = np.arange(samples, dtype=np.uint64)

    def sample_order(self, epoch: int) -> npt.NDArray[np.uint64]:
        return self.indices


class _Ffcv:
    def __init__(self, beton: Beton, batch_size: int, workers: int) -> None:
        import torch

        # FFCV sets torch's thread count to its own number of workers: when imported, when constructed, at each epoch.
        self.threads = torch.get_num_threads()
        try:
            with compiling_later():
                from ffcv.fields.basics import IntDecoder
                from ffcv.fields.ndarray import NDArrayDecoder
                from ffcv.fields.rgb_image import SimpleRGBImageDecoder
                from ffcv.loader import Loader as FfcvLoader
                from ffcv.loader import OrderOption
        except ImportError as error:
            raise UserError(
                f"loading.backend is ffcv, but FFCV cannot be imported here ({error})",
                "run make setup, or set loading.backend: numpy in params.yaml (equal bytes)",
            ) from None
        self.batch_size = batch_size
        self.order = _Order(beton.samples)
        decoder = SimpleRGBImageDecoder() if beton.dtype == "uint8" else NDArrayDecoder()
        self.loader = FfcvLoader(
            str(beton.path),
            batch_size=batch_size,
            num_workers=workers,
            os_cache=True,
            order=OrderOption.SEQUENTIAL,
            drop_last=False,
            pipelines={IMAGE: [decoder], LABEL: [IntDecoder()]},
        )
        self.loader.traversal_order = self.order
        torch.set_num_threads(self.threads)

    def batches(self, order: Ints) -> Iterator[Batch]:
        import torch

        self.order.indices = order.astype(np.uint64)
        self.loader.first_traversal_order = self.order.indices  # its length is what FFCV takes for the epoch's
        iterator = iter(self.loader)
        try:
            for start in range(0, len(order), self.batch_size):
                images, labels = _next(iterator)
                if start == 0:
                    torch.set_num_threads(self.threads)
                indices = order[start : start + self.batch_size]
                # Copies: FFCV's arrays are slots of a ring that the next batches overwrite.
                yield Batch(indices, images.copy(), labels.reshape(-1).copy())
        finally:
            iterator.close()
            _drain(iterator)
            torch.set_num_threads(self.threads)


def _next(iterator: Any) -> tuple[Stored, Ints]:
    """The next batch; FFCV's own __next__ would wait for ever for a producer thread that has died."""
    while True:
        try:
            item = iterator.output_queue.get(timeout=1)
        except queue.Empty:
            if iterator.is_alive():
                continue
            raise WrnPipeError(
                "FFCV's reading thread died", "see its traceback above; try loading.backend: numpy"
            ) from None
        if item is None:
            raise WrnPipeError("FFCV ended the epoch early", "run wrn-pipe repro convert to check the data again")
        _, (images, labels) = item
        return images, labels


def _drain(iterator: Any) -> None:
    """Let the producer thread end: it waits for room in its queue before it looks at its stop flag."""
    while iterator.is_alive():
        try:
            iterator.output_queue.get(timeout=0.05)
        except queue.Empty:
            continue
    iterator.join()
