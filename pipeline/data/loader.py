"""Mini-batches of stored images in an order of ours, by FFCV or by plain numpy: equal bytes from both, JPEGs apart."""

import os
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import numpy.typing as npt

from pipeline.data.beton import IMAGE, LABEL, Beton, open_split, read
from pipeline.data.digest import Stored
from pipeline.data.ffcv_patches import compiling_later, end, next_batch, tables_only
from pipeline.data.jpeg import boxes, ffcv_decoder, metadata_with_boxes, views
from pipeline.data.resized_crop import RandomCrops
from pipeline.errors import UserError
from pipeline.params import Backend

Ints = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Batch:
    """B samples: which, images uint8 or float32 [N,H,W,3] as stored (JPEGs: uint8 [N,224,224,3] as seen), where among
    these each sample's is, int64 [B], and labels int64 [B]."""

    indices: Ints
    images: Stored
    at: Ints
    labels: Ints


class Loader:
    """Delivers the samples of one split in any order asked for. Open it once: FFCV compiles for seconds.

    `workers` is FFCV's number of reading threads, at most the number of cores; None takes one, or for JPEGs, which are
    slow to decode, one a core. Their number changes no byte. `beton` is what `open_split` has given for the split,
    where that has been asked already.
    """

    def __init__(
        self,
        folder: Path,
        split: str,
        batch_size: int,
        backend: Backend,
        workers: int | None = None,
        beton: Beton | None = None,
    ) -> None:
        self.beton = beton = beton or open_split(folder, split)
        self.samples = beton.samples
        self.batch_size = batch_size
        self._source: _Numpy | _Ffcv = (
            _Ffcv(beton, batch_size, workers) if backend == "ffcv" else _Numpy(beton, batch_size)
        )

    def batches(self, order: Ints, crops: RandomCrops | None = None) -> Iterator[Batch]:
        """Consecutive mini-batches of `order` (int64 indices into the split), the last one possibly smaller, each with
        copies of its B images.

        JPEGs are seen as `crops` draws it, or without it as a test sees them. Raises ValueError for indices that the
        split does not have, and for crops of images that are not JPEGs.
        """
        whole = self.views(order, crops)
        return (replace(batch, images=batch.images[batch.at], at=np.arange(len(batch.at))) for batch in whole)

    def views(self, order: Ints, crops: RandomCrops | None = None) -> Iterator[Batch]:
        """The same mini-batches, their images not copied: they may be overwritten when the next is asked for."""
        if len(order) and (order.min() < 0 or order.max() >= self.samples):
            raise ValueError(f"indices {order.min()}..{order.max()} do not lie in a split of {self.samples}")
        if self.beton.kind == "jpeg":
            return self._source.views(order, boxes(self.beton, order, crops))
        if crops:
            raise ValueError("these images are all of one size: a random resized crop is for JPEGs")
        return self._source.views(order, None)


class _Numpy:
    def __init__(self, beton: Beton, batch_size: int) -> None:
        self.beton, self.batch_size = beton, batch_size
        if beton.kind != "jpeg":
            self.images, _ = read(beton.path)

    def views(self, order: Ints, seen: Ints | None) -> Iterator[Batch]:
        for start in range(0, len(order), self.batch_size):
            indices = order[start : start + self.batch_size]
            labels = self.beton.labels[indices]
            if seen is None:
                yield Batch(indices, self.images, indices, labels)
            else:
                decoded = views(self.beton, indices, seen[start : start + self.batch_size])
                yield Batch(indices, decoded, np.arange(len(indices)), labels)


class _Ffcv:
    def __init__(self, beton: Beton, batch_size: int, workers: int | None) -> None:
        import torch

        # FFCV sets torch's thread count to its own number of workers: when imported, when constructed, at each epoch.
        self.threads = torch.get_num_threads()
        try:
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
        self.order = np.arange(beton.samples, dtype=np.uint64)
        if beton.kind == "jpeg":
            decoder = ffcv_decoder()
            workers = workers or len(os.sched_getaffinity(0))
        else:
            decoder = SimpleRGBImageDecoder() if beton.kind == "rgb" else NDArrayDecoder()
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
        # FFCV asks its traversal order for each epoch's indices.
        self.loader.traversal_order = SimpleNamespace(sample_order=lambda epoch: self.order)
        self.metadata = self.loader.reader.metadata
        torch.set_num_threads(self.threads)

    def views(self, order: Ints, seen: Ints | None) -> Iterator[Batch]:
        import torch

        if seen is not None:
            self.loader.reader.metadata = metadata_with_boxes(self.metadata, order, seen)
            seen = None  # this frame lives as long as the epoch
        self.order = order.astype(np.uint64)
        self.loader.first_traversal_order = self.order  # its length is what FFCV takes for the epoch's
        iterator = iter(self.loader)
        try:
            for start in range(0, len(order), self.batch_size):
                images, labels = next_batch(iterator)
                if start == 0:
                    torch.set_num_threads(self.threads)
                indices = order[start : start + self.batch_size]
                # FFCV's arrays are slots of a ring that the next batches overwrite.
                yield Batch(indices, images, np.arange(len(indices)), labels.reshape(-1).copy())
        finally:
            end(iterator)
            torch.set_num_threads(self.threads)
