"""From a dataset's image files to the folder that training reads: one .beton of JPEGs per split and a card."""

import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from pipeline.data import jpeg_store
from pipeline.data.beton import sha256
from pipeline.data.beton_jpeg import KIND, JpegBeton, inspect_jpegs
from pipeline.data.beton_writer import JpegJob, resized, write
from pipeline.data.jpeg_store import Store
from pipeline.dataset_config import SourceError
from pipeline.errors import WrnPipeError
from pipeline.progress import progress, say
from pipeline.publish import json_text, new_folder

_CHUNK = 1000
_END_OF_IMAGE = b"\xff\xd9"


def convert_jpegs(raw: Path, to: Path, splits: list[str], classes: int, max_side: int, quality: int) -> None:
    """Write `to`/{split}.beton and `to`/card.json from the jpeg_store `raw`: every image decoded, scaled down where its
    longer side exceeds `max_side` pixels, and encoded with libjpeg's `quality`, as FFCV does it.

    Each file is read back in full before anything is published. Raises UserError for an image that cannot be decoded.
    """
    card: dict[str, Any] = {"name": to.name, "kind": KIND, "max_side": max_side, "quality": quality, "splits": {}}
    with new_folder(to) as work:
        jobs = {split: JpegJob(raw, split, max_side, quality, work / f"{split}.beton") for split in splits}
        write(list(jobs.values()))
        for split, job in jobs.items():
            store = jpeg_store.open_split(raw, split)
            found = inspect_jpegs(job.to)
            if fault := _fault(found, store, max_side):
                raise WrnPipeError(f"{to / job.to.name}: {fault}", "run it again; check memory and disk")
            say(f"{to.name} {split}: {found.samples} images read back, {job.to.stat().st_size / 1e6:.1f} MB")
            card["splits"][split] = {
                **describe(found, classes),
                "source_digest": jpeg_store.files_digest(store.labels, store.sha256),
                "beton": {"bytes": job.to.stat().st_size, "sha256": sha256(job.to)},
            }
        (work / "card.json").write_text(json_text(card), encoding="utf-8")


def describe(beton: JpegBeton, classes: int) -> dict[str, Any]:
    """Images of each class, and the smallest, median and largest height, width and size in bytes."""
    return {
        "images": beton.samples,
        "images_per_class": np.bincount(beton.labels, minlength=classes).tolist(),
        "height": _spread(beton.heights),
        "width": _spread(beton.widths),
        "jpeg_bytes": {**_spread(beton.sizes), "total": int(beton.sizes.sum())},
    }


def _spread(values: npt.NDArray[np.int64]) -> dict[str, int]:
    # The lower of two medians: a whole number, so that no rounding can differ.
    ordered = np.sort(values)
    return {
        "smallest": int(ordered[0]),
        "median": int(ordered[(len(ordered) - 1) // 2]),
        "largest": int(ordered[-1]),
    }


def _fault(beton: JpegBeton, store: Store, max_side: int) -> str | None:
    """What is not as it was written; None where all is."""
    if not np.array_equal(beton.labels, store.labels):
        return "its labels are not those of its source"
    if not np.array_equal(np.stack([beton.widths, beton.heights], axis=1), resized(store.sizes, max_side)):
        return "its images have other sizes than their source gives"
    file = np.memmap(beton.path, dtype=np.uint8, mode="r")

    def fault_of(i: int) -> str | None:
        content = file[beton.pointers[i] :][: beton.sizes[i]].tobytes()
        try:
            shape = jpeg_store.decode(content, f"image {i}").shape
        except SourceError as error:
            return str(error)
        as_told = shape == (beton.heights[i], beton.widths[i], 3) and content.endswith(_END_OF_IMAGE)
        return None if as_told else f"image {i} is not what its table says"

    with ThreadPoolExecutor(os.cpu_count()) as pool, progress("read back", beton.samples, "images") as task:
        for start in range(0, beton.samples, _CHUNK):
            chunk = range(start, min(start + _CHUNK, beton.samples))
            if faults := [fault for fault in pool.map(fault_of, chunk) if fault]:
                return faults[0]
            task.advance(len(chunk))
    return None
