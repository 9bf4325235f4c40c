"""Checksums of a dataset's decoded content: the same whatever file the content came in."""

import hashlib
import json

import numpy as np
from numpy.typing import DTypeLike, NDArray

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
    _require(images, labels, np.uint8, np.dtype("<f4"))
    header = {
        "images": {"dtype": images.dtype.name, "shape": list(images.shape)},
        "labels": {"dtype": "int64", "shape": list(labels.shape)},
    }
    sha = hashlib.sha256(json.dumps(header, sort_keys=True, separators=(",", ":")).encode() + b"\n")
    sha.update(labels.astype("<i8").tobytes())
    sha.update(np.ascontiguousarray(images).view(np.uint8).data)
    return sha.hexdigest()


def to_records(images: Images, labels: Labels) -> NDArray[np.uint8]:
    """CIFAR's binary record layout: uint8 [N, 1 + channels * height * width], a label byte, then the pixels channel
    first. Raises ValueError for a label outside 0..255."""
    _require(images, labels)
    if labels.size and (labels.min() < 0 or labels.max() > 255):
        raise ValueError(f"labels {labels.min()}..{labels.max()} do not fit the layout's one label byte")
    pixels = images.transpose(0, 3, 1, 2).reshape(len(images), int(np.prod(images.shape[1:])))
    return np.concatenate([labels.astype(np.uint8)[:, None], pixels], axis=1)


def record_digests(images: Images, labels: Labels, parts: int) -> list[str]:
    """sha256 in hex of `parts` equal consecutive slices of the split, each as a file of binary records.

    For CIFAR-10 these are the checksums of data_batch_1.bin .. data_batch_5.bin and test_batch.bin.
    Raises ValueError if the split cannot be cut into equal parts.
    """
    if parts < 1 or len(images) % parts:
        raise ValueError(f"{len(images)} images cannot be cut into {parts} equal parts")
    size = len(images) // parts
    slices = [slice(part * size, (part + 1) * size) for part in range(parts)]
    return [hashlib.sha256(to_records(images[s], labels[s]).data).hexdigest() for s in slices]


def _require(images: Stored, labels: Labels, *dtypes: DTypeLike) -> None:
    """Raise TypeError or ValueError unless images are of one of `dtypes`, uint8 if none is named."""
    allowed = [np.dtype(dtype) for dtype in dtypes or (np.uint8,)]
    if images.dtype not in allowed or labels.dtype != np.int64:
        names = " or ".join(dtype.name for dtype in allowed)
        raise TypeError(f"need {names} images and int64 labels, got {images.dtype} and {labels.dtype}")
    if images.ndim != 4 or labels.shape != images.shape[:1]:
        raise ValueError(f"need images [N, height, width, channels] and labels [N], got {images.shape}, {labels.shape}")
