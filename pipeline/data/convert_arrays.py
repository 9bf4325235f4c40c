"""From a dataset's arrays to the folder that training reads: one .beton per split and a card that describes them."""

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from pipeline.data import zca
from pipeline.data.beton import read, sha256
from pipeline.data.beton_writer import Job, write
from pipeline.data.digest import Stored, split_digest
from pipeline.data.image_grid import before_and_after
from pipeline.errors import UserError, WrnPipeError
from pipeline.progress import say
from pipeline.publish import json_text, new_folder

_CHUNK = 10_000
"""Images whose statistics are gathered at a time: SVHN's at once would take 5 GB."""


def convert(raw: Path, to: Path, splits: list[str], classes: int, kind: Literal["rgb", "zca"] = "rgb") -> None:
    """Write `to`/{split}.beton and `to`/card.json from `raw`/{split}_{images,labels}.npy: uint8 [N,H,W,3], int64 [N].

    Of kind zca, the images are whitened first, by what the split named train says, and `to`/whitened.png shows some of
    them. Each file is read back in full and compared with its source by digest before anything is published.
    """
    published = {split: raw / f"{split}_images.npy" for split in splits}
    labels = {split: raw / f"{split}_labels.npy" for split in splits}
    for split in splits:
        _require_arrays(published[split], labels[split])
    card: dict[str, Any] = {"name": to.name, "splits": {}}
    with new_folder(to) as work:
        stored = published
        if kind == "zca":
            arrays = work / "arrays"
            arrays.mkdir()
            stored = {split: arrays / f"{split}.npy" for split in splits}
            card.update(kind=kind, whitening=_whiten(published, stored))
        jobs = {split: Job(stored[split], labels[split], work / f"{split}.beton") for split in splits}
        write(list(jobs.values()))
        for split, job in jobs.items():
            card["splits"][split] = _verified(job, to, split, classes)
        if kind == "zca":
            images = np.load(published["train"], mmap_mode="r"), np.load(stored["train"], mmap_mode="r")
            before_and_after(*images, np.load(labels["train"])).save(work / "whitened.png")
            shutil.rmtree(arrays)
        (work / "card.json").write_text(json_text(card), encoding="utf-8")


def _whiten(published: dict[str, Path], stored: dict[str, Path]) -> dict[str, Any]:
    """Write the whitened images; return what the card says of the whitening."""
    whitening = zca.whiten(published, stored)
    fitted_on = {"split": "train", "images": len(np.load(published["train"], mmap_mode="r"))}
    return {"fitted_on": fitted_on, "scale": zca.SCALE, "bias": zca.BIAS, "spectrum": zca.spectrum(whitening)}


def _verified(job: Job, to: Path, split: str, classes: int) -> dict[str, Any]:
    """The card's entry of a file, after reading it back."""
    images, labels = np.load(job.images, mmap_mode="r"), np.load(job.labels)
    digest = split_digest(images, labels)
    if split_digest(*read(job.to)) != digest:
        what = f"{to / job.to.name} does not read back as the images it was made of"
        raise WrnPipeError(what, "run it again; check memory and disk")
    say(f"{to.name} {split}: {len(labels)} images read back, digest {digest[:12]}")
    return {
        **describe(images, labels, classes),
        "digest": digest,
        "beton": {"bytes": job.to.stat().st_size, "sha256": sha256(job.to)},
    }


def _require_arrays(path: Path, labels: Path) -> None:
    remedy = f"wrn-pipe repro download@{path.parent.name}"
    for file in (path, labels):
        if not file.is_file():
            raise UserError(f"{file} not found", remedy)
    try:
        array, n = np.load(path, mmap_mode="r"), len(np.load(labels))
    except (ValueError, EOFError, TypeError) as error:
        raise UserError(
            f"{path} and {labels.name} are no arrays: {error}", f"delete {path.parent}, then {remedy}"
        ) from None
    if len(array) != n:
        raise UserError(f"{path}: {len(array)} images with {n} labels", f"delete {path.parent}, then {remedy}")
    if array.dtype != np.uint8 or array.ndim != 4 or array.shape[3] != 3:
        what = f"{path}: {array.dtype} {array.shape} is not uint8 [N,H,W,3]"
        raise UserError(what, "run wrn-pipe repro download")


def describe(images: Stored, labels: npt.NDArray[np.int64], classes: int) -> dict[str, Any]:
    """Shape, images of each class, and each channel's mean and standard deviation: over pixels scaled to 0-1, or over
    the values as they are where these are floats, whose dtype is then told too."""
    entry = {
        "images": len(labels),
        "height": images.shape[1],
        "width": images.shape[2],
        "images_per_class": np.bincount(labels, minlength=classes).tolist(),
    }
    if images.dtype == np.uint8:
        mean, std = _byte_moments(images)
        return entry | {"mean": [round(m / 255, 8) for m in mean], "std": [round(s / 255, 8) for s in std]}
    mean, std = _float_moments(images)
    # Whitened images have mean 0: adding 0.0 turns -0.0 into it.
    rounded = {"mean": [round(m, 6) + 0.0 for m in mean], "std": [round(s, 6) for s in std]}
    return entry | {"dtype": images.dtype.name} | rounded


def _byte_moments(images: Stored) -> tuple[list[float], list[float]]:
    # Sums of integers are exact, so the moments do not depend on the order of summation.
    channels = range(images.shape[3])
    histogram = np.zeros((len(channels), 256), np.int64)
    for chunk in _chunks(images):
        histogram += np.stack([np.bincount(chunk[..., c].reshape(-1), minlength=256) for c in channels])
    values = np.arange(256)
    pixels = images[..., 0].size
    mean = (histogram @ values) / pixels
    variance = (histogram @ values**2) / pixels - mean**2
    return mean.tolist(), np.sqrt(variance).tolist()


def _float_moments(images: Stored) -> tuple[list[float], list[float]]:
    pixels = images[..., 0].size
    mean = sum(chunk.sum(axis=(0, 1, 2), dtype=np.float64) for chunk in _chunks(images)) / pixels
    squares = (((chunk.astype(np.float64) - mean) ** 2).sum(axis=(0, 1, 2)) for chunk in _chunks(images))
    return mean.tolist(), np.sqrt(sum(squares) / pixels).tolist()


def _chunks(images: Stored) -> Iterator[Stored]:
    for start in range(0, len(images), _CHUNK):
        yield images[start : start + _CHUNK]
