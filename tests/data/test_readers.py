"""pipeline.data.readers: any file of the dataset gives the same arrays in the same order, or a refusal."""

from __future__ import annotations

import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy.io import loadmat, savemat

from pipeline.data import readers
from pipeline.data.digest import to_records
from pipeline.data.readers import Splits
from pipeline.dataset_config import SPLITS, Dataset, SourceError
from tests.data.packed import BATCHES, members_of, npm_members, tar

Entry = dict[str, Any]


@pytest.fixture
def entry(tiny_dataset_entry: Callable[[str], Entry]) -> Entry:
    return {**tiny_dataset_entry("http://127.0.0.1/x"), "record_digests": None}


@pytest.fixture
def tiny(entry: Entry) -> Dataset:
    return Dataset.model_validate(entry)


def _equal(found: Splits, expected: Splits) -> None:
    assert list(found) == list(SPLITS)
    for split, (images, labels) in expected.items():
        assert found[split][0].dtype == np.uint8
        assert found[split][1].dtype == np.int64
        np.testing.assert_array_equal(found[split][0], images)
        np.testing.assert_array_equal(found[split][1], labels)


def test_the_archive_reads_as_a_plain_unpickler_reads_it(tiny: Dataset, tiny_archive: Path) -> None:
    found = readers.read_archive(tiny_archive, tiny)
    members = members_of(tiny_archive)
    batches = [pickle.loads(members[f"{BATCHES}/data_batch_{i}"], encoding="bytes") for i in range(1, 6)]
    flat = np.concatenate([batch[b"data"] for batch in batches])
    np.testing.assert_array_equal(found["train"][1], [label for batch in batches for label in batch[b"labels"]])
    # One image plane by plane: the first 1024 values are red, row by row.
    for channel in range(3):
        plane = flat[100, channel * 1024 : (channel + 1) * 1024].reshape(32, 32)
        np.testing.assert_array_equal(found["train"][0][100, :, :, channel], plane)


def test_cifar100s_label_is_the_fine_one(entry: Entry, tiny_images: Splits, tmp_path: Path) -> None:
    members = {}
    for split, (images, labels) in tiny_images.items():
        pixels, fine = to_records(images, labels)[:, 1:], labels.tolist()
        batch = {b"data": pixels, b"fine_labels": fine, b"coarse_labels": [19] * len(labels)}
        members[f"cifar-100-python/{split}"] = pickle.dumps(batch)
    archive = tar(tmp_path / "cifar-100-python.tar.gz", members)
    _equal(readers.read_archive(archive, Dataset.model_validate({**entry, "reader": "cifar100-python"})), tiny_images)


def test_the_npm_layout_gives_the_same_arrays(tiny: Dataset, tiny_images: Splits, tmp_path: Path) -> None:
    _equal(readers.read_npm_tarball(tar(tmp_path / "a.tgz", npm_members(tiny_images)), tiny), tiny_images)


ROW = np.zeros((52, 3072), np.uint8)


@pytest.mark.parametrize(
    ("batch", "said"),
    [
        ({b"data": ROW.astype(np.float32), b"labels": [0] * 52}, "train: images are float32"),
        ({b"data": ROW[1:], b"labels": [0] * 51}, r"train: images are uint8 \(259, 32, 32, 3\)"),
        ({b"data": ROW, b"labels": [0] * 51}, r"train: labels are int64 \(259,\)"),
        ({b"data": ROW, b"labels": [10] * 52}, r"train: labels 0\.\.10, not 0\.\.9"),
        ({b"data": ROW, b"labels": [-1] * 52}, r"train: labels -1\.\.9, not 0\.\.9"),
        ({b"data": ROW[:, 1:], b"labels": [0] * 52}, r"a\.tar\.gz: not readable as cifar-python: "),
        ({b"data": ROW, b"fine_labels": [0] * 52}, r"a\.tar\.gz: lacks b'labels'"),
        (None, rf"a\.tar\.gz: lacks '{BATCHES}/data_batch_4'"),
    ],
)
def test_content_that_is_not_as_the_entry_says_is_refused(
    batch: dict[bytes, Any] | None, said: str, tiny: Dataset, tiny_archive: Path, tmp_path: Path
) -> None:
    members = members_of(tiny_archive)
    del members[f"{BATCHES}/data_batch_4"]
    if batch:
        members[f"{BATCHES}/data_batch_4"] = pickle.dumps(batch)
    with pytest.raises(SourceError, match=said):
        readers.read(tiny.sources[0], [tar(tmp_path / "a.tar.gz", members)], tiny)


def test_a_file_that_is_no_archive_is_refused(tiny: Dataset, tmp_path: Path) -> None:
    (tmp_path / "a.tar.gz").write_bytes(b"PK")
    with pytest.raises(SourceError, match=r"a\.tar\.gz: not readable as cifar-python: "):
        readers.read(tiny.sources[0], [tmp_path / "a.tar.gz"], tiny)


def test_svhn_is_train_then_extra_with_0_for_10(tiny_images: Splits, tmp_path: Path) -> None:
    (images, labels), test = tiny_images["train"], tiny_images["test"]
    assert 0 in labels[:100]
    parts = {"train": (images[:100], labels[:100]), "extra": (images[100:], labels[100:]), "test": test}
    files = []
    for name, (X, y) in parts.items():
        # As published: X [32,32,3,N], y [N,1] with 10 for the digit 0, compressed.
        content = {"X": X.transpose(1, 2, 3, 0), "y": np.where(y == 0, 10, y).astype(np.uint8)[:, None]}
        files.append(tmp_path / f"{name}_32x32.mat")
        savemat(files[-1], content, do_compression=True)
    found = readers.read_mats(files[::-1])
    _equal(found, tiny_images)
    X = loadmat(files[2])["X"]
    assert all(found["test"][0][n, r, c, k] == X[r, c, k, n] for n, r, c, k in [(0, 0, 31, 0), (103, 7, 20, 1)])
