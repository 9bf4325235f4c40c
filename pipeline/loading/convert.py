"""From a dataset's arrays to the folder that training reads: one .beton per split and a card that describes them."""

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from pipeline.datasets.digest import split_digest
from pipeline.errors import WrnPipeError
from pipeline.loading.beton import Job, read, sha256, write
from pipeline.progress import say
from pipeline.publish import json_text, new_folder


def convert(raw: Path, to: Path, splits: list[str], classes: int) -> None:
    """Write `to`/{split}.beton and `to`/card.json from `raw`/{split}_{images,labels}.npy.

    Each file is read back in full and compared with its source by digest before anything is published.
    """
    card: dict[str, Any] = {"name": to.name, "splits": {}}
    with new_folder(to) as work:
        jobs = [Job(raw / f"{s}_images.npy", raw / f"{s}_labels.npy", work / f"{s}.beton") for s in splits]
        write(jobs)
        for split, job in zip(splits, jobs, strict=True):
            images, labels = np.load(job.images, mmap_mode="r"), np.load(job.labels)
            digest = split_digest(images, labels)
            if split_digest(*read(job.to)) != digest:
                what = f"{to / job.to.name} does not read back as {raw}'s {split} split"
                raise WrnPipeError(what, "run it again; check memory and disk")
            card["splits"][split] = {
                **describe(images, labels, classes),
                "digest": digest,
                "beton": {"bytes": job.to.stat().st_size, "sha256": sha256(job.to)},
            }
            say(f"{to.name} {split}: {len(labels)} images read back, digest {digest[:12]}")
        (work / "card.json").write_text(json_text(card), encoding="utf-8")


def describe(images: npt.NDArray[np.uint8], labels: npt.NDArray[np.int64], classes: int) -> dict[str, Any]:
    """Shape, images of each class, and each channel's mean and standard deviation over pixels scaled to 0-1."""
    # Sums of integers are exact, so the moments do not depend on the order of summation.
    histogram = np.stack([np.bincount(images[..., c].reshape(-1), minlength=256) for c in range(images.shape[3])])
    values = np.arange(256)
    pixels = images[..., 0].size
    mean = (histogram @ values) / pixels
    variance = (histogram @ values**2) / pixels - mean**2
    return {
        "images": len(labels),
        "height": images.shape[1],
        "width": images.shape[2],
        "images_per_class": np.bincount(labels, minlength=classes).tolist(),
        "mean": [round(m / 255, 8) for m in mean.tolist()],
        "std": [round(s / 255, 8) for s in np.sqrt(variance).tolist()],
    }
