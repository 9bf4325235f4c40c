"""Any file of the dataset gives the same arrays in the same order, or a refusal; and what checksums of them are of.

CIFAR-10's archive is read a second time, plainly, in tests/reference.
"""

from __future__ import annotations

import hashlib
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import photos
import pytest
from scipy.io import loadmat
from tiny import ARCHIVE, entry

from pipeline.data import readers
from pipeline.data.digest import record_digests, split_digest
from pipeline.data.readers import Splits
from pipeline.dataset_config import SPLITS, Dataset, SourceError

BATCHES = "cifar-10-batches-py"


@pytest.fixture
def tiny() -> Dataset:
    return Dataset.model_validate(entry())


def _equal(found: Splits, expected: Splits) -> None:
    assert list(found) == list(SPLITS)
    for split, (images, labels) in expected.items():
        assert (found[split][0].dtype, found[split][1].dtype) == (np.uint8, np.int64)
        np.testing.assert_array_equal(found[split][0], images)
        np.testing.assert_array_equal(found[split][1], labels)


def test_cifar100s_label_is_the_fine_one(tiny: Dataset, tiny_images: Splits, tmp_path: Path) -> None:
    members = {}
    for split, (images, labels) in tiny_images.items():
        pixels, fine = images.transpose(0, 3, 1, 2).reshape(len(images), -1), labels.tolist()
        batch = {b"data": pixels, b"fine_labels": fine, b"coarse_labels": [19] * len(labels)}
        members[f"cifar-100-python/{split}"] = pickle.dumps(batch)
    archive = photos.packed(tmp_path / "cifar-100-python.tar.gz", members)
    _equal(readers.read_archive(archive, tiny.model_copy(update={"reader": "cifar100-python"})), tiny_images)


def test_svhn_is_train_then_extra_with_0_for_10(tiny_images: Splits, tmp_path: Path) -> None:
    assert 0 in tiny_images["train"][1][:100]
    files = photos.svhn(tiny_images, tmp_path)
    found = readers.read_mats(files[::-1])
    _equal(found, tiny_images)
    X = loadmat(files[2])["X"]
    assert all(found["test"][0][n, r, c, k] == X[r, c, k, n] for n, r, c, k in [(0, 0, 31, 0), (103, 7, 20, 1)])


ROW = np.zeros((52, 3072), np.uint8)


@pytest.mark.parametrize(
    ("batch", "said"),
    [
        ({b"data": ROW.astype(float), b"labels": [0] * 52}, r"train: images are float64 \(260, 32, 32, 3\)"),
        ({b"data": ROW[1:], b"labels": [0] * 51}, r"train: images are uint8 \(259, 32, 32, 3\) with 259 labels, not"),
        ({b"data": ROW, b"labels": [10] * 52}, r"train: labels 0\.\.10, not 0\.\.9"),
        ({b"data": ROW, b"labels": [-1] * 52}, r"train: labels -1\.\.9, not 0\.\.9"),
        ({b"data": ROW[:, 1:], b"labels": [0] * 52}, r"a\.tar\.gz: not readable as cifar-python: ValueError"),
        ({b"data": ROW, b"fine_labels": [0] * 52}, r"a\.tar\.gz: not readable as cifar-python: KeyError\(b'labels'"),
        (None, rf"a\.tar\.gz: not readable as cifar-python: KeyError\('{BATCHES}/data_batch_4'"),
    ],
)
def test_content_that_is_not_as_the_entry_says_is_refused(
    batch: dict[bytes, Any] | None, said: str, tiny: Dataset, tmp_path: Path
) -> None:
    members = readers.read_members(ARCHIVE)
    del members[f"{BATCHES}/data_batch_4"]
    if batch:
        members[f"{BATCHES}/data_batch_4"] = pickle.dumps(batch)
    archive = photos.packed(tmp_path / "a.tar.gz", members)
    with pytest.raises(SourceError, match=said):
        readers.read(tiny.sources[0], [archive], tiny)
    archive.write_bytes(b"PK")
    with pytest.raises(SourceError, match="not readable as cifar-python: ReadError"):
        readers.read(tiny.sources[0], [archive], tiny)


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


def test_records_are_a_label_byte_and_channels_first_in_equal_consecutive_slices(tiny_images: Splits) -> None:
    images, labels = tiny_images["train"]
    slice_2 = (bytes([labels[i]]) + b"".join(images[i, :, :, c].tobytes() for c in range(3)) for i in range(52, 104))
    assert record_digests(images, labels, 5)[1] == hashlib.sha256(b"".join(slice_2)).hexdigest()
