"""FFCV .beton files of JPEGs, each of a size of its own: checked without FFCV, which crashes on a damaged one."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from pipeline.data.beton import JPG, RGB_FIELD, allocation_sizes, mend, open_card, open_tables, verified_file
from pipeline.errors import UserError

KIND = "jpeg"
"""What card.json says of a folder of such files."""

Ints = npt.NDArray[np.int64]


@dataclass(frozen=True)
class JpegBeton:
    """One split as a .beton file. Arrays are int64 [N]."""

    path: Path
    heights: Ints
    widths: Ints
    pointers: Ints
    """Of the first byte of each JPEG; all of them lie inside the file, one behind the other."""
    sizes: Ints
    """Bytes of each."""
    labels: Ints

    @property
    def samples(self) -> int:
        return len(self.labels)


def holds_jpegs(folder: Path) -> bool:
    """Whether the card of a data/beton folder says so. Raises UserError when there is no readable card."""
    card = open_card(folder)
    return isinstance(card, dict) and card.get("kind") == KIND


def open_jpegs(folder: Path, split: str) -> JpegBeton:
    """The .beton of a split, with its bytes, header and tables checked, also against the card.

    Raises UserError on any difference: FFCV itself reads on, or crashes.
    """
    card = open_card(folder)
    try:
        entry = card["splits"][split]
        numbers = entry["images"], entry["height"]["largest"], entry["width"]["largest"]
        pinned = entry["beton"]["sha256"]
    except (KeyError, TypeError, AttributeError) as error:
        raise UserError(f"{folder / 'card.json'} does not describe {split}: {error!r}", mend(folder)) from None
    found = inspect_jpegs(verified_file(folder, split, pinned))
    # What FFCV decodes into is as large as the table says, so a table that lies could fill the memory.
    largest = found.samples, int(found.heights.max()), int(found.widths.max())
    if numbers != largest:
        what = f"{found.path} has {largest} images and largest sides, {folder / 'card.json'} says {numbers}"
        raise UserError(what, mend(folder))
    return found


def inspect_jpegs(path: Path) -> JpegBeton:
    """Read header and tables with numpy alone.

    Raises UserError where a field, mode, size or pointer is not as `beton_writer.write` makes it.
    """
    tables = open_tables(path)
    images = tables.images
    if tables.kind != RGB_FIELD or (images["mode"] != JPG).any():
        raise tables.refuse("its images are not all JPEGs")
    pointers, sizes = images["data_ptr"], allocation_sizes(tables, images["data_ptr"])
    if (images["height"] == 0).any() or (images["width"] == 0).any() or (sizes == 0).any():
        raise tables.refuse("an image has no size")
    # Each begins where its predecessor has ended, at the latest, and none overflows on the way there.
    end, n = tables.allocations_at, len(pointers)
    room = np.append(pointers[1:], np.uint64(end)) - pointers
    first = tables.start + n * images.strides[0]
    if pointers[0] < first or (pointers > end).any() or (np.diff(pointers.astype(np.int64)) < 0).any():
        raise tables.refuse("an image lies outside the file")
    if (sizes > room).any():
        raise tables.refuse("an image lies in another")
    heights, widths, at, lengths = (
        array.astype(np.int64) for array in (images["height"], images["width"], pointers, sizes)
    )
    return JpegBeton(path, heights, widths, at, lengths, tables.labels)
