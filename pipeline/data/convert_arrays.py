"""From a dataset's arrays to the folder that training reads: one .beton per split and a card that describes them."""

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from pipeline.data import beton, zca
from pipeline.data.digest import Images, Labels, Stored, split_digest
from pipeline.errors import UserError, WrnPipeError
from pipeline.progress import say
from pipeline.publish import json_text, new_folder, writing

_CHUNK = 10_000
"""Images whose statistics are gathered at a time: SVHN's at once would take 5 GB."""


def convert(raw: Path, to: Path, splits: list[str], classes: int, kind: Literal["rgb", "zca"] = "rgb") -> None:
    """Write `to`/{split}.beton and `to`/card.json from `raw`/{split}_{images,labels}.npy: uint8 [N,H,W,3], int64 [N].

    Of kind zca, the images are whitened first, by what the split named train says. The card describes what each file
    gives when it is read back, which of kind rgb must be its source.
    """
    published = {split: _load(raw, split) for split in splits}
    card: dict[str, Any] = {"name": to.name, "splits": {}}
    with writing(to), new_folder(to) as work:
        if kind == "zca":
            train = published["train"][0]
            whitening = zca.fit(train)
            spectrum = zca.spectrum(whitening)
            fitted_on = {"split": "train", "images": len(train)}
            card |= {
                "kind": kind,
                "whitening": {"fitted_on": fitted_on, "scale": zca.SCALE, "bias": zca.BIAS, "spectrum": spectrum},
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
            card["splits"][split] = {
                **describe(stored, stored_labels, classes),
                "digest": digest,
                "beton": {"bytes": path.stat().st_size, "sha256": beton.sha256(path)},
            }
        (work / "card.json").write_text(json_text(card), encoding="utf-8")


def _load(raw: Path, split: str) -> tuple[Images, Labels]:
    """The images, memory-mapped, and the labels."""
    try:
        return np.load(raw / f"{split}_images.npy", mmap_mode="r"), np.load(raw / f"{split}_labels.npy")
    except FileNotFoundError as error:
        raise UserError(f"{error.filename} not found", f"wrn-pipe repro download@{raw.name}") from None


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
