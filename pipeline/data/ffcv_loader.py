"""FFCV 1.0.2 as a source of batches: what it needs to import and open a file quickly, to see our boxes, not to hang."""

import os
import queue
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import numpy as np
import numpy.typing as npt

from pipeline.data.beton import IMAGE, LABEL, Beton, Ints
from pipeline.data.digest import Stored
from pipeline.data.resized_crop import SIDE
from pipeline.errors import UserError, WrnPipeError


class Ffcv:
    """FFCV's loader of one file, which compiles for seconds when it is first asked for batches."""

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
            decoder = _box_decoder()
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

    def batches(self, order: Ints, seen: Ints | None) -> Iterator[tuple[Stored, Ints]]:
        """Images, in slots of a ring that the next batches overwrite, and labels. Of JPEGs the boxes `seen`."""
        import torch

        if seen is not None:
            self.loader.reader.metadata = _with_boxes(self.metadata, order, seen)
            seen = None  # this frame lives as long as the epoch
        self.order = order.astype(np.uint64)
        self.loader.first_traversal_order = self.order  # its length is what FFCV takes for the epoch's
        iterator = iter(self.loader)
        try:
            for start in range(0, len(order), self.batch_size):
                images, labels = _next_batch(iterator)
                if start == 0:
                    torch.set_num_threads(self.threads)
                yield images, labels.reshape(-1).copy()
        finally:
            _end(iterator)
            torch.set_num_threads(self.threads)


@contextmanager
def compiling_later() -> Iterator[None]:
    """Import FFCV in this block, in 0.2 s instead of 3.1 s.

    FFCV keeps two constants in a numba dict (ffcv/fields/rgb_image.py), which numba compiles when the module is
    imported; told not to compile, it makes a plain dict. Decoders are compiled later, as always.
    """
    # numba.typed first, whose own functions have to stay compiled.
    import numba.typed

    config: Any = numba.config  # numba fills it when imported, unseen by a type checker
    before, config.DISABLE_JIT = config.DISABLE_JIT, True
    try:
        yield
    finally:
        config.DISABLE_JIT = before


@contextmanager
def tables_only() -> Iterator[None]:
    """Construct FFCV loaders in this block without their dict entry and two sets for each sample, which only another
    memory manager of FFCV's reads: of ImageNet 720 MB, in 2.3 s."""
    import ffcv.loader.loader
    from ffcv.memory_managers import OSCacheManager
    from ffcv.memory_managers.os_cache import OSCacheContext

    class Tables(OSCacheManager):  # type: ignore[misc]
        def __init__(self, reader: Any) -> None:
            table, reader.alloc_table = reader.alloc_table, None  # nobody else asks for it
            order = np.argsort(table["ptr"], kind="stable")
            self.reader, self.context = reader, OSCacheContext(self)
            self.ptrs, self.sizes = table["ptr"][order], table["size"][order]

    ffcv.loader.loader.OSCacheManager = Tables
    try:
        yield
    finally:
        ffcv.loader.loader.OSCacheManager = OSCacheManager


def _next_batch(iterator: Any) -> tuple[Stored, npt.NDArray[np.int64]]:
    """Images and labels of FFCV's next batch; its own __next__ would wait for ever for a producer thread that died."""
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


def _end(iterator: Any) -> None:
    """End FFCV's producer thread, which waits for room in its queue before it looks at its stop flag."""
    iterator.close()
    while iterator.is_alive():
        try:
            iterator.output_queue.get(timeout=0.05)
        except queue.Empty:
            continue
    iterator.join()


def _with_boxes(metadata: npt.NDArray[Any], order: Ints, seen: Ints) -> npt.NDArray[Any]:
    """FFCV's table of samples with a box for each sample of `order`. FFCV hands its compiled decoders this table each
    epoch; numba would freeze any other array at the first."""
    image, label = metadata.dtype.names or ()
    fields = metadata.dtype[image].descr
    with_box = np.dtype([*fields, *((name, "<u4") for name in ("top", "left", "rows", "columns"))])
    table = np.zeros(len(metadata), np.dtype([(image, with_box), (label, metadata.dtype[label])], align=True))
    table[image][[name for name, *_ in fields]] = metadata[image]
    table[label] = metadata[label]
    for name, values in zip(("top", "left", "rows", "columns"), seen.T, strict=True):
        table[image][name][order] = values
    table.setflags(write=False)
    return table


def _box_decoder() -> Any:
    """An FFCV decoder that cuts each image to the box in its row of `_with_boxes`. FFCV must be there."""
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
                failed = 0
                for k in samples(len(batch_indices)):
                    row = metadata[batch_indices[k]]
                    height, width = np.uint32(row["height"]), np.uint32(row["width"])
                    # Not in a buffer of FFCV's, which would hold the largest image for each place of each batch.
                    pixels = np.empty((height, width, 3), np.uint8)
                    content = read(row["data_ptr"], storage_state)
                    if decode_jpeg(content, pixels, height, width, height, width, 0, 0, 1, 1, False, False) != 0:
                        failed += 1
                    top, left = np.int64(row["top"]), np.int64(row["left"])
                    bottom, right = top + np.int64(row["rows"]), left + np.int64(row["columns"])
                    resize(pixels, top, bottom, left, right, destination[k])
                if failed > 0:
                    raise ValueError("libjpeg-turbo refuses a JPEG of the .beton file")
                return destination[: len(batch_indices)]

            decode_boxes.is_parallel = True  # type: ignore[attr-defined]
            return decode_boxes

    return BoxDecoder()
