"""pipeline.data.digest: what the checksums depend on, and what not."""

import hashlib

import numpy as np
import pytest

from pipeline.data.digest import record_digests, split_digest, to_records
from pipeline.data.readers import Splits


def test_the_digest_is_the_documented_sha256(tiny_images: Splits) -> None:
    images, labels = tiny_images["test"]
    by_hand = hashlib.sha256(
        b'{"images":{"dtype":"uint8","shape":[104,32,32,3]},"labels":{"dtype":"int64","shape":[104]}}\n'
        + b"".join(int(label).to_bytes(8, "little") for label in labels)
        + bytes(images.ravel().tolist())
    )
    assert split_digest(images, labels) == by_hand.hexdigest()


def test_the_digest_ignores_memory_layout(tiny_images: Splits) -> None:
    images, labels = tiny_images["test"]
    assert split_digest(np.asfortranarray(images), labels[::-1].copy()[::-1]) == split_digest(images, labels)


@pytest.mark.parametrize("what", ["pixel", "label", "order", "shape", "count"])
def test_the_digest_sees_every_change(tiny_images: Splits, what: str) -> None:
    images, labels = tiny_images["test"][0].copy(), tiny_images["test"][1].copy()
    before = split_digest(images, labels)
    if what == "pixel":
        images[-1, -1, -1, -1] ^= 1
    elif what == "label":
        labels[-1] = (labels[-1] + 1) % 10
    elif what == "order":
        images, labels = images[::-1], labels[::-1]
    elif what == "shape":
        images = images.reshape(len(images), 16, 64, 3)
    else:
        images, labels = images[:-1], labels[:-1]
    assert split_digest(images, labels) != before


def test_other_dtypes_are_refused(tiny_images: Splits) -> None:
    images, labels = tiny_images["test"]
    with pytest.raises(TypeError, match="int32"):
        split_digest(images, labels.astype(np.int32))
    for dtype in ("float64", ">f4", "int8"):
        with pytest.raises(TypeError, match="uint8 or float32"):
            split_digest(images.astype(dtype), labels)


def test_whitened_images_have_a_digest_of_their_own(tiny_images: Splits) -> None:
    images, labels = tiny_images["test"]
    floats = images.astype(np.float32)
    before = split_digest(floats, labels)
    # The definition, spelt out: another program must be able to compute it.
    head = b'{"images":{"dtype":"float32","shape":[104,32,32,3]},"labels":{"dtype":"int64","shape":[104]}}\n'
    assert before == hashlib.sha256(head + labels.tobytes() + floats.tobytes()).hexdigest()
    assert before != split_digest(images, labels)
    floats[50, 3, 3, 1] = np.nextafter(floats[50, 3, 3, 1], np.float32(np.inf))
    assert split_digest(floats, labels) != before


def test_records_are_a_label_byte_and_channels_first(tiny_images: Splits) -> None:
    images, labels = tiny_images["test"]
    record = to_records(images, labels)[7]
    assert record[0] == labels[7]
    assert record[1 + 2 * 1024 + 3 * 32 + 4] == images[7, 3, 4, 2]
    assert record.size == 3073


def test_slices_are_equal_and_consecutive(tiny_images: Splits) -> None:
    images, labels = tiny_images["train"]
    second = hashlib.sha256(to_records(images[52:104], labels[52:104]).tobytes()).hexdigest()
    assert record_digests(images, labels, 5)[1] == second
