"""Mini-batches of stored images in an order of ours, by FFCV or by plain numpy: equal bytes from both, JPEGs apart."""

import os
import queue
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from pipeline.data.beton import IMAGE, LABEL, Beton, open_split, read
from pipeline.data.beton_jpeg import JpegBeton, holds_jpegs, open_jpegs
from pipeline.data.digest import Stored
from pipeline.data.jpeg import boxes, ffcv_decoder, metadata_with_boxes, views
from pipeline.data.quick_import import compiling_later, tables_only
from pipeline.data.resized_crop import RandomCrops
from pipeline.errors import UserError, WrnPipeError
from pipeline.params import Backend

Ints = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Batch:
    """B samples: which, their images uint8 or float32 [B,H,W,3] as stored (JPEGs: uint8 [B,224,224,3] as seen), their
    labels int64 [B]. Arrays are yours."""

    indices: Ints
    images: Stored
    labels: Ints


@dataclass(frozen=True)
class View:
    """B samples where they lie, until the next view is asked for: the image of indices[i] is images[at[i]]."""

    indices: Ints
    images: Stored
    at: Ints
    labels: Ints


def checked(folder: Path, split: str) -> Beton | JpegBeton:
    """A split of a data/beton folder, every byte of it read and checked. Raises UserError for any that is not right."""
    return open_jpegs(folder, split) if holds_jpegs(folder) else open_split(folder, split)


class Loader:
    """Delivers the samples of one split in any order asked for. Open it once: FFCV compiles for seconds.

    `workers` is FFCV's number of reading threads, at most the number of cores; None takes one, or for JPEGs, which are
    slow to decode, one a core. The numpy backend does the same. Their number changes no byte. `beton` is what `checked`
    has given for the split, where that has been asked already.
    """

    def __init__(
        self,
        folder: Path,
        split: str,
        batch_size: int,
        backend: Backend,
        workers: int | None = None,
        beton: Beton | JpegBeton | None = None,
    ) -> None:
        beton = beton or checked(folder, split)
        self.jpegs = beton if isinstance(beton, JpegBeton) else None
        self.samples = beton.samples
        self.batch_size = batch_size
        self._source: _Numpy | _Ffcv = (
            _Ffcv(beton, batch_size, workers) if backend == "ffcv" else _Numpy(beton, batch_size)
        )

    def batches(self, order: Ints, crops: RandomCrops | None = None) -> Iterator[Batch]:
        """Consecutive mini-batches of `order` (int64 indices into the split), the last one possibly smaller.

        JPEGs are seen as `crops` draws it, or without it as a test sees them. Raises ValueError for indices that the
        split does not have, and for crops of images that are no JPEGs.
        """
        return (Batch(view.indices, view.images[view.at], view.labels) for view in self.views(order, crops))

    def views(self, order: Ints, crops: RandomCrops | None = None) -> Iterator[View]:
        """The same mini-batches, their images not copied: they may be overwritten when the next view is asked for."""
        if len(order) and (order.min() < 0 or order.max() >= self.samples):
            raise ValueError(f"indices {order.min()}..{order.max()} do not lie in a split of {self.samples}")
        if self.jpegs:
            return self._source.views(order, boxes(self.jpegs, order, crops))
        if crops:
            raise ValueError("these images are all of one size: a random resized crop is for JPEGs")
        return self._source.views(order, None)


class _Numpy:
    def __init__(self, beton: Beton | JpegBeton, batch_size: int) -> None:
        self.beton, self.batch_size = beton, batch_size
        if isinstance(beton, Beton):
            self.images, self.labels = read(beton.path)
        else:
            self.labels = beton.labels

    def views(self, order: Ints, seen: Ints | None) -> Iterator[View]:
        for start in range(0, len(order), self.batch_size):
            block = slice(start, start + self.batch_size)
            indices = order[block]
            if isinstance(self.beton, JpegBeton):
                assert seen is not None, "the Loader has boxes for JPEGs"
                decoded = views(self.beton, indices, seen[block])
                yield View(indices, decoded, np.arange(len(indices)), self.labels[indices])
            else:
                yield View(indices, self.images, indices, self.labels[indices])


class _Order:
    """FFCV asks its traversal order for each epoch's indices."""

    def __init__(self, samples: int) -> None:
        self.indices = np.arange(samples, dtype=np.uint64)

    def sample_order(self, epoch: int) -> npt.NDArray[np.uint64]:
        return self.indices


class _Ffcv:
    def __init__(self, beton: Beton | JpegBeton, batch_size: int, workers: int | None) -> None:
        import torch

        # FFCV sets torch's thread count to its own number of workers: when imported, when constructed, at each epoch.
        self.threads = torch.get_num_threads()
        try:
            # numba takes TBB where a system has it, and TBB keeps some 70 KB of every epoch's thread on a busy machine.
            import numba

            numba_config: Any = numba.config
            if "NUMBA_THREADING_LAYER" not in os.environ:
                numba_config.THREADING_LAYER = "omp"
            with compiling_later():
                from ffcv.fields.basics import IntDecoder
                from ffcv.fields.ndarray import NDArrayDecoder
                from ffcv.fields.rgb_image import SimpleRGBImageDecoder
                from ffcv.loader import Loader as FfcvLoader
                from ffcv.loader import OrderOption, epoch_iterator
        except ImportError as error:
            raise UserError(
                f"loading.backend is ffcv, but FFCV cannot be imported here ({error})",
                "run make setup, or set loading.backend: numpy in params.yaml (equal bytes)",
            ) from None
        # Else each epoch opens streams on GPU 0, for trainings on the CPU or another GPU as well, and fails where that
        # is occupied. Batches are copied before FFCV fills their memory again.
        epoch_iterator.IS_CUDA = False
        self.batch_size = batch_size
        self.order = _Order(beton.samples)
        if isinstance(beton, JpegBeton):
            decoder = ffcv_decoder()
            workers = workers or len(os.sched_getaffinity(0))
        else:
            decoder = SimpleRGBImageDecoder() if beton.dtype == "uint8" else NDArrayDecoder()
        with tables_only():
            self.loader = FfcvLoader(
                str(beton.path),
                batch_size=batch_size,
                num_workers=workers or 1,
                os_cache=True,
                order=OrderOption.SEQUENTIAL,
                drop_last=False,
                pipelines={IMAGE: [decoder], LABEL: [IntDecoder()]},
            )
        self.loader.traversal_order = self.order
        self.metadata = self.loader.reader.metadata
        torch.set_num_threads(self.threads)

    def views(self, order: Ints, seen: Ints | None) -> Iterator[View]:
        import torch

        if seen is not None:
            self.loader.reader.metadata = metadata_with_boxes(self.metadata, order, seen)
            seen = None  # this frame lives as long as the epoch
        self.order.indices = order.astype(np.uint64)
        self.loader.first_traversal_order = self.order.indices  # its length is what FFCV takes for the epoch's
        iterator = iter(self.loader)
        try:
            for start in range(0, len(order), self.batch_size):
                images, labels = _next(iterator)
                if start == 0:
                    torch.set_num_threads(self.threads)
                indices = order[start : start + self.batch_size]
                # FFCV's arrays are slots of a ring that the next batches overwrite.
                yield View(indices, images, np.arange(len(indices)), labels.reshape(-1).copy())
        finally:
            iterator.close()
            _drain(iterator)
            torch.set_num_threads(self.threads)


def _next(iterator: Any) -> tuple[Stored, Ints]:
    """The next batch; FFCV's own __next__ would wait for ever for a producer thread that has died."""
    while True:
        alive = iterator.is_alive()  # asked before the queue: the thread may deliver its last batch and end meanwhile
        try:
            item = iterator.output_queue.get(timeout=1)
        except queue.Empty:
            if alive:
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
