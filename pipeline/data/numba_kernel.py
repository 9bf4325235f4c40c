"""From stored images to the network's input in one pass, compiled, on one thread.

It gives the bits that `augmentation.augment`, then `Preprocessing`, then a cast give.
"""

from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt
from numba import njit

from pipeline.data.augmentation import sources
from pipeline.data.digest import Stored

Words = npt.NDArray[np.uint16 | np.uint32]
Ints = npt.NDArray[np.int64]
Bools = npt.NDArray[np.bool_]


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


def fill(out: Words, images: Stored, at: Ints, mirrored: Bools, rows: Ints, columns: Ints, table: Words | None) -> None:
    """Write images[at[i]], mirrored, reflect-padded and cropped at (rows[i], columns[i]), to out[i].

    out: [B,H,W,3], the bits of float32 or bfloat16. images: [N,H,W,3], a whole split or a batch: bytes, which go
    through `table` [3,256], bits by channel and byte; or without a table finite float32, which move and are rounded.
    Raises IndexError for an image or a crop that is not there.
    """
    height, width = images.shape[1:3]
    stored = images if table is not None else images.view(np.uint32)
    lines = -1, height, 3 * width
    # Source lines [2*PAD+1, height], and of plain and mirrored pixels the first byte in a line [2, 2*PAD+1, width].
    down, across = sources(height)[0], 3 * np.stack(sources(width))
    _fill(out.reshape(lines), stored.reshape(lines), at, mirrored, rows, columns, down, across, table)


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
