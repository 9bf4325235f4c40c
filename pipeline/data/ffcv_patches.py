"""What FFCV 1.0.2 needs in order to import and open a file quickly, and not to hang."""

import queue
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import numpy.typing as npt

from pipeline.data.digest import Stored
from pipeline.errors import WrnPipeError


@contextmanager
def compiling_later() -> Iterator[None]:
    """Import FFCV in this block: 0.2 s instead of 3.1 s.

    FFCV keeps two constants in a numba dict (ffcv/fields/rgb_image.py), which numba compiles when the module is
    imported; told not to compile, it makes a plain dict. Decoders are compiled later, as always. Raises ImportError
    where numba is missing.
    """
    # numba.typed first, whose own functions have to stay compiled.
    import numba.typed

    config: Any = numba.config  # numba fills it when imported, unseen by a type checker
    before = config.DISABLE_JIT
    config.DISABLE_JIT = True
    try:
        yield
    finally:
        config.DISABLE_JIT = before


@contextmanager
def tables_only() -> Iterator[None]:
    """Construct FFCV loaders in this block that keep no Python objects for each sample: of ImageNet 720 MB, in 2.3 s.

    FFCV's MemoryManager makes a dict entry and two sets of each allocation, which only its ProcessCacheManager reads.
    """
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


def next_batch(iterator: Any) -> tuple[Stored, npt.NDArray[np.int64]]:
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


def end(iterator: Any) -> None:
    """End FFCV's producer thread, which waits for room in its queue before it looks at its stop flag."""
    iterator.close()
    while iterator.is_alive():
        try:
            iterator.output_queue.get(timeout=0.05)
        except queue.Empty:
            continue
    iterator.join()
