"""Checksums of files, and of a dataset's decoded content: the same whatever file the content came in."""

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from pipeline.dataset_config import Dataset, SourceError, Split
from pipeline.progress import say

Images = NDArray[np.uint8]
Stored = NDArray[np.uint8 | np.float32]
"""Images as they are stored for training: the published bytes, or whitened."""
Labels = NDArray[np.int64]


def file_digest(path: Path, algorithm: str) -> str:
    """Checksum of a file's bytes in hex."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, algorithm).hexdigest()


def split_digest(images: Stored, labels: Labels) -> str:
    """sha256 of one split, in hex: of one line of canonical JSON with dtype and shape of both arrays, the labels as
    little-endian int64, the images' bytes in C order, little-endian.

    images: uint8 or float32 [N, height, width, channels]. labels: int64 [N].
    """
    arrays = {"images": images, "labels": labels}
    header = {name: {"dtype": array.dtype.name, "shape": list(array.shape)} for name, array in arrays.items()}
    sha = hashlib.sha256(canonical_line(header))
    sha.update(labels.astype("<i8").tobytes())
    sha.update(np.ascontiguousarray(images).view(np.uint8).data)
    return sha.hexdigest()


def canonical_line(value: Mapping[str, object]) -> bytes:
    """JSON in the one form that checksums are made of."""
    return json.dumps(value, sort_keys=True, separators=(",", ":")).encode() + b"\n"


def record_digests(images: Images, labels: Labels, parts: int) -> list[str]:
    """sha256 in hex of `parts` equal consecutive slices of the split, each as a file in CIFAR's binary record layout:
    of each image one byte of label, then the pixels, channel first. For CIFAR-10 these are the checksums of
    data_batch_1.bin .. data_batch_5.bin and test_batch.bin."""
    pixels = images.transpose(0, 3, 1, 2).reshape(len(images), -1)
    records = np.concatenate([labels.astype(np.uint8)[:, None], pixels], axis=1)
    return [hashlib.sha256(part.tobytes()).hexdigest() for part in np.array_split(records, parts)]


def require_digest(split: Split, found: str, dataset: Dataset) -> None:
    """Raise SourceError where params.yaml pins another digest; print it where none is pinned."""
    if dataset.digests is None:
        say(f"{split}: no digest is pinned; that of this content is {found}")
    elif found != dataset.digests[split]:
        raise SourceError(f"wrong content: {split} digest {found}, not {dataset.digests[split]}")
