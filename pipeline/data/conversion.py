"""From a dataset as it was downloaded to the folder that training reads: one .beton per split and a card."""

import os
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pandas as pd

from pipeline.atomic_write import json_text, new_folder, writing
from pipeline.data import beton, jpeg_store, zca
from pipeline.data.beton import Beton, Ints
from pipeline.data.digest import Images, Labels, Stored, split_digest
from pipeline.dataset_config import SPLITS
from pipeline.errors import UserError, WrnPipeError
from pipeline.progress import say

_JPEGS = 256
"""Encoded ahead of their writing, at most."""


@contextmanager
def _folder(to: Path, **about: Any) -> Iterator[tuple[Path, dict[str, Any]]]:
    """A folder to fill with .beton files and the card to fill in, both of which appear at the end as `to`."""
    card: dict[str, Any] = {"name": to.name, **about, "splits": {}}
    with writing(to), new_folder(to) as work:
        yield work, card
        for split, entry in card["splits"].items():
            path = work / f"{split}.beton"
            entry["beton"] = {"bytes": path.stat().st_size, "sha256": beton.sha256(path)}
        (work / "card.json").write_text(json_text(card), encoding="utf-8")


def load(raw: Path, split: str) -> tuple[Images, Labels]:
    """A split's arrays as the download stage leaves them: images [N,H,W,3], memory-mapped, and labels [N]."""
    try:
        return np.load(raw / f"{split}_images.npy", mmap_mode="r"), np.load(raw / f"{split}_labels.npy")
    except FileNotFoundError as error:
        raise UserError(f"{error.filename} not found", f"wrn-pipe repro download@{raw.name}") from None


def convert(raw: Path, to: Path, classes: int, kind: Literal["rgb", "zca"] = "rgb") -> None:
    """Write `to`/{split}.beton and `to`/card.json from the arrays of `raw`.

    Of kind zca, the images are whitened first, by what the training split says. The card describes what each file
    gives when it is read back, which of kind rgb must be its source.
    """
    published = {split: load(raw, split) for split in SPLITS}
    with _folder(to) as (work, card):
        if kind == "zca":
            train = published["train"][0]
            whitening = zca.fit(train)
            card["kind"] = kind
            card["whitening"] = {
                "fitted_on": {"split": "train", "images": len(train)},
                "scale": zca.SCALE,
                "bias": zca.BIAS,
                "spectrum": zca.spectrum(whitening),
            }
        for split, (images, labels) in published.items():
            path = work / f"{split}.beton"
            content: Iterable[Stored] = images if kind == "rgb" else zca.whitened(whitening, images)
            sides = np.tile([images.shape[2], images.shape[1]], (len(images), 1))
            beton.write(path, kind, sides, labels, content)
            stored, stored_labels = beton.read(path)
            if kind == "rgb" and not (np.array_equal(stored, images) and np.array_equal(stored_labels, labels)):
                what = f"{to / path.name} does not read back as the images it was made of"
                raise WrnPipeError(what, "run it again; check memory and disk")
            digest = split_digest(stored, stored_labels)
            say(f"{to.name} {split}: {len(labels)} images read back, digest {digest[:12]}")
            card["splits"][split] = {**describe(stored, stored_labels, classes), "digest": digest}


def convert_jpegs(raw: Path, to: Path, classes: int, max_side: int, quality: int) -> None:
    """Write `to`/{split}.beton and `to`/card.json from the jpeg_store `raw`: every image decoded, scaled down where its
    longer side exceeds `max_side` pixels, and encoded with libjpeg's `quality`, as FFCV's writer does it. Raises
    UserError for an image that cannot be decoded."""
    with _folder(to, kind="jpeg", max_side=max_side, quality=quality) as (work, card):
        for split in SPLITS:
            path, index = work / f"{split}.beton", jpeg_store.open_index(raw, split)
            sizes, labels = index[["width", "height"]].to_numpy(np.int64), index["label"].to_numpy(np.int64)
            # FFCV's scaling, in its own order of operations on floats, since it cuts off the fractions.
            ratio = max_side / sizes.max(axis=1, keepdims=True)
            sides = np.where(ratio < 1, (ratio * sizes).astype(np.int64), sizes)
            beton.write(path, "jpeg", sides, labels, _encoded(raw, split, index, sides, quality))
            say(f"{to.name} {split}: {len(sides)} images, {path.stat().st_size / 1e6:.1f} MB")
            digest = jpeg_store.files_digest(labels, index["sha256"])
            card["splits"][split] = {**describe_jpegs(beton.inspect(path), classes), "source_digest": digest}


def _encoded(raw: Path, split: str, index: pd.DataFrame, sides: Ints, quality: int) -> Iterator[bytes]:
    """The JPEGs of a split in their order, made on all cores."""
    import cv2

    def encode(content: bytes, name: str, side: Ints) -> bytes:
        try:
            pixels = jpeg_store.decode(content)
        except jpeg_store.BROKEN_IMAGE as error:
            what = f"{split} {name}: not a readable image: {error}"
            raise UserError(what, "replace that image in your folder, and run wrn-pipe repro download") from None
        width, height = side.tolist()
        if pixels.shape[:2] != (height, width):
            pixels = np.asarray(cv2.resize(pixels, (width, height), interpolation=cv2.INTER_AREA), np.uint8)
        bgr = cv2.cvtColor(pixels, cv2.COLOR_RGB2BGR)
        return cv2.imencode(".jpg", bgr, [cv2.IMWRITE_JPEG_QUALITY, quality])[1].tobytes()

    files = jpeg_store.contents(raw, split, index["bytes"])
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        for start in range(0, len(index), _JPEGS):
            part = slice(start, start + _JPEGS)
            yield from pool.map(encode, islice(files, _JPEGS), index["name"][part], sides[part])


def describe(images: Stored, labels: Labels, classes: int) -> dict[str, Any]:
    """Shape, images of each class, and each channel's mean and standard deviation: over pixels scaled to 0-1, or over
    the values as they are where these are floats, whose dtype is then told too."""
    entry = {
        "images": len(labels),
        "height": images.shape[1],
        "width": images.shape[2],
        "images_per_class": np.bincount(labels, minlength=classes).tolist(),
    }
    # Sums of integers are exact, so the moments of bytes do not depend on the order of summation.
    exact, scale, digits = (np.int64, 255, 8) if images.dtype == np.uint8 else (np.float64, 1, 6)
    pixels, total, squares = images[..., 0].size, *np.zeros((2, images.shape[3]), exact)
    for chunk in zca.chunks(images):
        part = chunk.astype(exact)
        total += part.sum(axis=(0, 1, 2))
        squares += (part * part).sum(axis=(0, 1, 2))
    mean = total / pixels
    moments = {"mean": mean / scale, "std": np.sqrt(squares / pixels - mean**2) / scale}
    if scale == 1:
        entry["dtype"] = images.dtype.name
    # Whitened images have mean 0: adding 0.0 turns -0.0 into it.
    return entry | {name: [round(value, digits) + 0.0 for value in each.tolist()] for name, each in moments.items()}


def describe_jpegs(split: Beton, classes: int) -> dict[str, Any]:
    """Images of each class, and the smallest, median and largest height, width and size in bytes."""
    entry: dict[str, Any] = {
        "images": len(split.labels),
        "images_per_class": np.bincount(split.labels, minlength=classes).tolist(),
    }
    for name, values in (("height", split.heights), ("width", split.widths), ("jpeg_bytes", split.sizes)):
        ordered = np.sort(values).tolist()
        # The lower of two medians: a whole number, so that no rounding can differ.
        median = ordered[(len(ordered) - 1) // 2]
        entry[name] = {"smallest": ordered[0], "median": median, "largest": ordered[-1]}
    entry["jpeg_bytes"]["total"] = int(split.sizes.sum())
    return entry
