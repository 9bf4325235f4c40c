"""Mini-batches of stored images in an order of ours, by FFCV 1.0.2 or plain numpy: equal bytes from both, JPEGs apart.

Of JPEGs both see the same boxes, scaled by OpenCV's INTER_AREA. Their pixels differ by a few grey levels, since FFCV
decodes with libjpeg-turbo's fast integer transform and Pillow with the accurate one: results belong to the backend,
which run.json names. What else is here is what FFCV needs to import quickly, to see our boxes, and not to hang.
"""

import os
import queue
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from pipeline.data.augmentation import SIDE, Boxes, central_boxes
from pipeline.data.beton import IMAGE, LABEL, Beton, open_split, read
from pipeline.data.digest import Images, Stored
from pipeline.data.jpeg_store import decode
from pipeline.data.sampler import Ints
from pipeline.errors import UserError, WrnPipeError
from pipeline.params import Backend


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
    slow to decode, one a core. Their number changes no byte. `known`: the split, where its bytes were checked before.
    """

    def __init__(
        self,
        folder: Path,
        split: str,
        batch_size: int,
        backend: Backend,
        workers: int | None = None,
        known: Beton | None = None,
    ) -> None:
        self.beton = known or open_split(folder, split)
        self.samples, self.batch_size = len(self.beton.labels), batch_size
        self._ffcv = Ffcv(self.beton, batch_size, workers) if backend == "ffcv" else None
        self._images = None if self._ffcv or self.beton.kind == "jpeg" else read(self.beton.path)[0]

    def batches(self, order: Ints, boxes: Boxes = central_boxes) -> Iterator[Batch]:
        """Consecutive mini-batches of `order` (int64 indices into the split), the last one possibly smaller, each with
        copies of its B images. Of JPEGs the `boxes` are seen."""
        whole = self.views(order, boxes)
        return (replace(batch, images=batch.images[batch.at], at=np.arange(len(batch.at))) for batch in whole)

    def views(self, order: Ints, boxes: Boxes = central_boxes) -> Iterator[Batch]:
        """The same mini-batches, their images not copied: they may be overwritten when the next is asked for."""
        parts = [order[start : start + self.batch_size] for start in range(0, len(order), self.batch_size)]
        beton = self.beton
        if self._images is not None:
            return (Batch(part, self._images, part, beton.labels[part]) for part in parts)

        def seen(part: Ints) -> Ints:
            return boxes(part, beton.heights[part], beton.widths[part])

        if self._ffcv:
            images = self._ffcv.batches(order, seen(order) if beton.kind == "jpeg" else None)
        else:
            images = (views(beton, part, seen(part)) for part in parts)
        delivered = zip(parts, images, strict=True)
        return (Batch(part, shown, np.arange(len(part)), beton.labels[part]) for part, shown in delivered)


def views(beton: Beton, indices: Ints, seen: Ints) -> Images:
    """uint8 [B, 224, 224, 3]: the JPEGs `indices` cut to the boxes `seen` [B, 4], by Pillow, with a thread a core."""
    import cv2

    content = np.memmap(beton.path, dtype=np.uint8, mode="r")

    def view(i: int, box: Ints) -> npt.NDArray[Any]:
        start = beton.pointers[i]
        pixels = decode(content[start : start + beton.sizes[i]].tobytes())
        top, left, height, width = box
        cut = pixels[top : top + height, left : left + width]
        return cv2.resize(cut, (SIDE, SIDE), interpolation=cv2.INTER_AREA)

    with ThreadPoolExecutor(os.cpu_count()) as pool:
        return np.stack(list(pool.map(view, indices, seen)))


class Ffcv:
    """FFCV's loader of one file, which compiles for seconds when it is first asked for batches."""

    def __init__(self, beton: Beton, batch_size: int, workers: int | None) -> None:
        # FFCV sets torch's thread count to its own number of workers: when imported, when constructed, at each epoch.
        self.threads = torch.get_num_threads()
        try:
            with compiling_later() as most_threads:
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
        wanted = workers or (len(os.sched_getaffinity(0)) if beton.kind == "jpeg" else 1)
        decoder = {"rgb": SimpleRGBImageDecoder, "zca": NDArrayDecoder, "jpeg": _box_decoder}[beton.kind]()
        self.loader = FfcvLoader(
            str(beton.path),
            batch_size=batch_size,
            num_workers=min(wanted, most_threads),  # more than these numba refuses
            os_cache=True,
            order=OrderOption.SEQUENTIAL,
            drop_last=False,
            pipelines={IMAGE: [decoder], LABEL: None},
        )
        # Of ImageNet 720 MB, which only another memory manager of FFCV's reads.
        manager = self.loader.memory_manager
        del manager.ptr_to_size, manager.sample_to_pages, manager.page_to_samples
        self.metadata = self.loader.reader.metadata
        torch.set_num_threads(self.threads)

    def batches(self, order: Ints, seen: Ints | None) -> Iterator[Stored]:
        """Images, in slots of a ring that the next batches overwrite. Of JPEGs the boxes `seen`."""
        if seen is not None:
            self.loader.reader.metadata = _with_boxes(self.metadata, order, seen)
        epoch = _started(self.loader, order)
        try:
            for start in range(0, len(order), self.loader.batch_size):
                item = epoch.output_queue.get()
                if isinstance(item, Exception):
                    raise WrnPipeError(f"FFCV's reading thread died: {item!r}", "try loading.backend: numpy") from item
                if start == 0:
                    torch.set_num_threads(self.threads)
                _, (images,) = item
                yield images
        finally:
            epoch.close()
            while epoch.is_alive():  # it waits for room in its queue before it looks at its stop flag
                with suppress(queue.Empty):
                    epoch.output_queue.get(timeout=0.05)
            torch.set_num_threads(self.threads)


@contextmanager
def compiling_later() -> Iterator[int]:
    """Import FFCV in this block, in 0.2 s instead of 3.1 s. Yields the most threads that numba will start.

    FFCV keeps two constants in a numba dict (ffcv/fields/rgb_image.py), which numba compiles when the module is
    imported; told not to compile, it makes a plain dict. Decoders are compiled later, as always.
    """
    # numba.typed first, whose own functions have to stay compiled.
    import numba.typed

    config: Any = numba.config  # numba fills it when imported, unseen by a type checker
    before, config.DISABLE_JIT = config.DISABLE_JIT, True
    try:
        yield config.NUMBA_NUM_THREADS
    finally:
        config.DISABLE_JIT = before


def _started(loader: Any, order: Ints) -> Any:
    """FFCV's thread that reads an epoch in this order. FFCV's own ends silently at an error, while the reader waits for
    ever; this one puts the error into the queue of batches."""
    from ffcv.loader.epoch_iterator import EpochIterator

    class Epoch(EpochIterator):  # type: ignore[misc]
        def run(self) -> None:
            try:
                super().run()
            except Exception as error:  # noqa: BLE001
                self.output_queue.put(error)

    return Epoch(loader, order.astype(np.uint64))


def _with_boxes(metadata: npt.NDArray[Any], order: Ints, seen: Ints) -> npt.NDArray[Any]:
    """FFCV's table of samples with a box for each sample of `order`. FFCV hands its compiled decoders this table each
    epoch; numba would freeze any other array at the first."""
    image, label = metadata.dtype.names or ()
    fields = metadata.dtype[image].descr
    with_box = np.dtype([*fields, ("box", "<u4", 4)])
    table = np.zeros(len(metadata), np.dtype([(image, with_box), (label, metadata.dtype[label])], align=True))
    table[image][[name for name, *_ in fields]] = metadata[image]
    table[label] = metadata[label]
    table[image]["box"][order] = seen
    table.setflags(write=False)
    return table


def _box_decoder() -> Any:
    """An FFCV decoder that cuts each image to the box in its row of `_with_boxes`."""
    from ffcv.fields.rgb_image import SimpleRGBImageDecoder
    from ffcv.libffcv import imdecode, resize_crop
    from ffcv.pipeline.allocation_query import AllocationQuery
    from ffcv.pipeline.compiler import Compiler

    class BoxDecoder(SimpleRGBImageDecoder):  # type: ignore[misc]
        def declare_state_and_memory(self, previous_state: Any) -> tuple[Any, Any]:
            shape, dtype = (SIDE, SIDE, 3), np.dtype("u1")
            state = replace(previous_state, jit_mode=True, shape=shape, dtype=dtype)
            return state, AllocationQuery(shape, dtype)

        def generate_code(self) -> Any:
            read, samples = self.memory_read, Compiler.get_iterator()
            decode_jpeg, resize = Compiler.compile(imdecode), Compiler.compile(resize_crop)

            def decode_boxes(batch_indices, destination, metadata, storage_state):  # type: ignore[no-untyped-def]
                for k in samples(len(batch_indices)):
                    row = metadata[batch_indices[k]]
                    height, width, box = np.uint32(row["height"]), np.uint32(row["width"]), row["box"]
                    # Not in a buffer of FFCV's, which would hold the largest image for each place of each batch.
                    pixels = np.empty((height, width, 3), np.uint8)
                    content = read(row["data_ptr"], storage_state)
                    decode_jpeg(content, pixels, height, width, height, width, 0, 0, 1, 1, False, False)
                    top, left = np.int64(box[0]), np.int64(box[1])
                    resize(pixels, top, top + np.int64(box[2]), left, left + np.int64(box[3]), destination[k])
                return destination[: len(batch_indices)]

            decode_boxes.is_parallel = True  # type: ignore[attr-defined]
            return decode_boxes

    return BoxDecoder()
