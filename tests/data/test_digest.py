"""pipeline.data.digest: what the checksums depend on, and what not."""

import hashlib

import numpy as np
import pytest

from pipeline.data.digest import record_digests, split_digest, to_records
from pipeline.data.readers import Splits


def test_the_digest_is_the_documented_sha256_whatever_the_memory_layout(tiny_images: Splits) -> None:
    images, labels = tiny_images["test"]
    by_hand = hashlib.sha256(
        b'{"images":{"dtype":"uint8","shape":[104,32,32,3]},"labels":{"dtype":"int64","shape":[104]}}\n'
        + b"".join(int(label).to_bytes(8, "little") for label in labels)
        + bytes(images.ravel().tolist())
    )
    assert split_digest(images, labels) == by_hand.hexdigest()
    assert split_digest(np.asfortranarray(images), labels[::-1].copy()[::-1]) == by_hand.hexdigest()
    # Of whitened images it is another.
    floats = images.astype(np.float32)
    head = b'{"images":{"dtype":"float32","shape":[104,32,32,3]},"labels":{"dtype":"int64","shape":[104]}}\n'
    assert split_digest(floats, labels) == hashlib.sha256(head + labels.tobytes() + floats.tobytes()).hexdigest()


def test_other_dtypes_are_refused(tiny_images: Splits) -> None:
    images, labels = tiny_images["test"]
    with pytest.raises(TypeError, match="int32"):
        split_digest(images, labels.astype(np.int32))
    for dtype in ("float64", ">f4", "int8"):
        with pytest.raises(TypeError, match="uint8 or float32"):
            split_digest(images.astype(dtype), labels)


def test_records_are_a_label_byte_and_channels_first_in_equal_consecutive_slices(tiny_images: Splits) -> None:
    images, labels = tiny_images["train"]
    records = to_records(images, labels)
    assert records.shape == (260, 3073)
    assert records[7, 0] == labels[7]
    assert records[7, 1 + 2 * 1024 + 3 * 32 + 4] == images[7, 3, 4, 2]
    assert record_digests(images, labels, 5)[1] == hashlib.sha256(records[52:104].tobytes()).hexdigest()
