"""Checksums of a dataset's decoded content: the same whatever file the content came in."""

import hashlib
import json
from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from pipeline.dataset_config import Dataset, SourceError, Split
from pipeline.progress import say

Images = NDArray[np.uint8]
Stored = NDArray[np.uint8 | np.float32]
"""Images as they are stored for training: the published bytes, or whitened."""
Labels = NDArray[np.int64]


def split_digest(images: Stored, labels: Labels) -> str:
    """sha256 of one split, in hex.

    Hashed in this order: one line of canonical JSON with dtype and shape of both arrays, the labels as little-endian
    int64, the images' bytes in C order, little-endian.

    images: uint8 or float32 [N, height, width, channels]. labels: int64 [N].
    Raises TypeError for other dtypes: a cast here could hide that two datasets differ.
    """
    if images.dtype not in (np.dtype("u1"), np.dtype("<f4")) or labels.dtype != np.int64:
        raise TypeError(f"need uint8 or float32 images and int64 labels, got {images.dtype} and {labels.dtype}")
    header = {
        "images": {"dtype": images.dtype.name, "shape": list(images.shape)},
        "labels": {"dtype": "int64", "shape": list(labels.shape)},
    }
    sha = hashlib.sha256(canonical_line(header))
    sha.update(labels.astype("<i8").tobytes())
    sha.update(np.ascontiguousarray(images).view(np.uint8).data)
    return sha.hexdigest()


def canonical_line(value: Mapping[str, object]) -> bytes:
    """JSON in the one form that checksums are made of."""
    return json.dumps(value, sort_keys=True, separators=(",", ":")).encode() + b"\n"


def to_records(images: Images, labels: Labels) -> NDArray[np.uint8]:
    """CIFAR's binary record layout: uint8 [N, 1 + channels * height * width], the label (0..255), then the pixels,
    channel first."""
    pixels = images.transpose(0, 3, 1, 2).reshape(len(images), -1)
    return np.concatenate([labels.astype(np.uint8)[:, None], pixels], axis=1)


def record_digests(images: Images, labels: Labels, parts: int) -> list[str]:
    """sha256 in hex of `parts` equal consecutive slices of the split, each as a file of binary records. For CIFAR-10
    these are the checksums of data_batch_1.bin .. data_batch_5.bin and test_batch.bin."""
    return [hashlib.sha256(part.tobytes()).hexdigest() for part in np.array_split(to_records(images, labels), parts)]


def require_digest(split: Split, found: str, dataset: Dataset) -> None:
    """Raise SourceError where params.yaml pins another digest; print it where none is pinned."""
    if dataset.digests is None:
        say(f"{split}: no digest is pinned; that of this content is {found}")
    elif found != dataset.digests[split]:
        raise SourceError(f"wrong content: {split} digest {found}, not {dataset.digests[split]}")
