"""From a dataset's image files to the folder that training reads: one .beton of JPEGs per split and a card."""

import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np

from pipeline.data import beton, jpeg_store
from pipeline.data.beton import Beton, Ints
from pipeline.data.jpeg_store import Store
from pipeline.dataset_config import SourceError
from pipeline.errors import UserError
from pipeline.progress import say
from pipeline.publish import json_text, new_folder, writing

_CHUNK = 256
"""JPEGs encoded ahead of their writing, at most."""


def convert_jpegs(raw: Path, to: Path, splits: list[str], classes: int, max_side: int, quality: int) -> None:
    """Write `to`/{split}.beton and `to`/card.json from the jpeg_store `raw`: every image decoded, scaled down where its
    longer side exceeds `max_side` pixels, and encoded with libjpeg's `quality`, as FFCV's writer does it.

    Raises UserError for an image that cannot be decoded, or would vanish when scaled.
    """
    card: dict[str, Any] = {"name": to.name, "kind": "jpeg", "max_side": max_side, "quality": quality, "splits": {}}
    with writing(to), new_folder(to) as work:
        for split in splits:
            path, store = work / f"{split}.beton", jpeg_store.open_split(raw, split)
            sides = resized(store.sizes, max_side)
            if len(thin := np.flatnonzero((sides < 1).any(axis=1))):
                width, height = store.sizes[thin[0]]
                what = f"{split} {store.names[thin[0]]}: {width} x {height} pixels cannot be scaled to {max_side}"
                raise UserError(what, "raise max_side, or replace that image in your folder")
            beton.write(path, "jpeg", sides, store.labels, _encoded(store, split, sides, quality))
            say(f"{to.name} {split}: {len(sides)} images, {path.stat().st_size / 1e6:.1f} MB")
            card["splits"][split] = {
                **describe(beton.inspect(path), classes),
                "source_digest": jpeg_store.files_digest(store.labels, store.sha256),
                "beton": {"bytes": path.stat().st_size, "sha256": beton.sha256(path)},
            }
        (work / "card.json").write_text(json_text(card), encoding="utf-8")


def resized(sizes: Ints, max_side: int) -> Ints:
    """Widths and heights [N, 2] after FFCV's scaling to `max_side`; a side may vanish."""
    # In FFCV's own order of operations on floats, since it cuts off the fractions.
    ratio = max_side / sizes.max(axis=1, keepdims=True)
    return np.where(ratio < 1, (ratio * sizes).astype(np.int64), sizes)


def _encoded(store: Store, split: str, sides: Ints, quality: int) -> Iterator[bytes]:
    """The JPEGs of a split in their order, made on all cores."""
    import cv2

    def encode(i: int) -> bytes:
        try:
            pixels = jpeg_store.decode(store.read(i), f"{split} {store.names[i]}")
        except SourceError as error:
            raise UserError(str(error), "replace that image in your folder, and run wrn-pipe repro download") from None
        width, height = sides[i].tolist()
        if pixels.shape[:2] != (height, width):
            pixels = np.asarray(cv2.resize(pixels, (width, height), interpolation=cv2.INTER_AREA), np.uint8)
        content = cv2.imencode(".jpg", cv2.cvtColor(pixels, cv2.COLOR_RGB2BGR), [cv2.IMWRITE_JPEG_QUALITY, quality])[1]
        return content.tobytes()

    with ThreadPoolExecutor(os.cpu_count()) as pool:
        for start in range(0, len(sides), _CHUNK):
            yield from pool.map(encode, range(start, min(start + _CHUNK, len(sides))))


def describe(split: Beton, classes: int) -> dict[str, Any]:
    """Images of each class, and the smallest, median and largest height, width and size in bytes."""
    return {
        "images": split.samples,
        "images_per_class": np.bincount(split.labels, minlength=classes).tolist(),
        "height": _spread(split.heights),
        "width": _spread(split.widths),
        "jpeg_bytes": {**_spread(split.sizes), "total": int(split.sizes.sum())},
    }


def _spread(values: Ints) -> dict[str, int]:
    # The lower of two medians: a whole number, so that no rounding can differ.
    ordered = np.sort(values)
    return {
        "smallest": int(ordered[0]),
        "median": int(ordered[(len(ordered) - 1) // 2]),
        "largest": int(ordered[-1]),
    }
