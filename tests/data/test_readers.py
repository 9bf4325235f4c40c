"""pipeline.data.readers: the same arrays out of every published form, and refusal of all that is not one."""

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
from pipeline.dataset_config import Dataset, SourceError
from tests.data.packed import BATCHES, members_of, npm_members, tar


@pytest.fixture
def tiny(tiny_dataset_entry: Callable[[str], dict[str, Any]]) -> Dataset:
    return Dataset.model_validate(tiny_dataset_entry("http://127.0.0.1/x"))


def _equal(found: Splits, wanted: Splits) -> None:
    assert found.keys() == wanted.keys()
    for split, (images, labels) in wanted.items():
        assert (found[split][0].dtype, found[split][1].dtype) == (images.dtype, labels.dtype)
        np.testing.assert_array_equal(found[split][0], images)
        np.testing.assert_array_equal(found[split][1], labels)


def test_the_archive_reads_as_a_plain_unpickler_reads_it(tiny: Dataset, tiny_archive: Path) -> None:
    found = readers.read_archive(tiny_archive, tiny)
    batches = [
        pickle.loads(members_of(tiny_archive)[f"{BATCHES}/data_batch_{i}"], encoding="bytes") for i in range(1, 6)
    ]
    flat = np.concatenate([batch[b"data"] for batch in batches])
    np.testing.assert_array_equal(found["train"][1], [label for batch in batches for label in batch[b"labels"]])
    # One image plane by plane: the first 1024 values are red, row by row.
    for channel in range(3):
        plane = flat[100, channel * 1024 : (channel + 1) * 1024].reshape(32, 32)
        np.testing.assert_array_equal(found["train"][0][100, :, :, channel], plane)


def test_images_of_another_shape_are_refused(tiny: Dataset, tiny_archive: Path) -> None:
    with pytest.raises(SourceError, match="train: images of 3072 values, not 28 x 28 x 3"):
        readers.read_archive(tiny_archive, tiny.model_copy(update={"shape": (28, 28, 3)}))


def test_cifar100s_label_is_the_fine_one(
    tiny_dataset_entry: Callable[[str], dict[str, Any]], tiny_images: Splits, tmp_path: Path
) -> None:
    entry = {**tiny_dataset_entry("http://127.0.0.1/x"), "reader": "cifar100-python", "record_digests": None}
    members = {}
    for split, (images, labels) in tiny_images.items():
        pixels, fine = to_records(images, labels)[:, 1:], labels.tolist()
        batch = {b"data": pixels, b"fine_labels": fine, b"coarse_labels": [19] * len(labels)}
        members[f"cifar-100-python/{split}"] = pickle.dumps(batch)
    archive = tar(tmp_path / "cifar-100-python.tar.gz", members)
    _equal(readers.read_archive(archive, Dataset.model_validate(entry)), tiny_images)


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
    ],
)
def test_content_that_is_not_as_the_entry_says_is_refused(
    batch: dict[bytes, Any], said: str, tiny: Dataset, tiny_archive: Path, tmp_path: Path
) -> None:
    members = {**members_of(tiny_archive), f"{BATCHES}/data_batch_4": pickle.dumps(batch)}
    with pytest.raises(SourceError, match=said):
        readers.check(readers.read_archive(tar(tmp_path / "a.tar.gz", members), tiny), tiny)


def test_an_archive_of_something_else_is_refused(tiny: Dataset, tiny_archive: Path, tmp_path: Path) -> None:
    members = members_of(tiny_archive)
    del members[f"{BATCHES}/data_batch_2"]
    with pytest.raises(SourceError, match=rf"a\.tar\.gz: lacks {BATCHES}/data_batch_2"):
        readers.read_archive(tar(tmp_path / "a.tar.gz", members), tiny)
    (tmp_path / "a.tar.gz").write_bytes(b"PK")
    with pytest.raises(SourceError, match=r"a\.tar\.gz: not a readable tar archive: "):
        readers.read_archive(tmp_path / "a.tar.gz", tiny)


SVHN = ("train_32x32.mat", "extra_32x32.mat", "test_32x32.mat")


def _mat(path: Path, images: np.ndarray, labels: np.ndarray) -> Path:
    """A file as published: X [32,32,3,N], y [N,1] with 10 for the digit 0, compressed."""
    y = np.where(labels == 0, 10, labels).astype(np.uint8)[:, None]
    savemat(path, {"X": images.transpose(1, 2, 3, 0), "y": y}, do_compression=True)
    return path


def test_svhn_is_train_then_extra_with_0_for_10(
    tiny_dataset_entry: Callable[[str], dict[str, Any]], tiny_images: Splits, tmp_path: Path
) -> None:
    source = {"archive": "http://127.0.0.1/a", "md5": "0" * 32, "bytes": 1}
    sources = [{"files": [source, {**source, "archive": "http://127.0.0.1/b"}]}]
    entry = {**tiny_dataset_entry("http://127.0.0.1/x"), "reader": "svhn-mat", "record_digests": None}
    dataset = Dataset.model_validate({**entry, "sources": sources})
    (images, labels), test = tiny_images["train"], tiny_images["test"]
    assert 0 in labels[:100]
    parts = (images[:100], labels[:100]), (images[100:], labels[100:]), test
    files = [_mat(tmp_path / name, *part) for name, part in zip(SVHN, parts, strict=True)]
    found = readers.read_mats(files[::-1], dataset)
    _equal(found, tiny_images)
    X = loadmat(files[2])["X"]  # against the published layout itself: row, column, channel, number
    assert all(found["test"][0][n, r, c, k] == X[r, c, k, n] for n, r, c, k in [(0, 0, 31, 0), (103, 7, 20, 1)])
    with pytest.raises(SourceError, match=r"lacks extra_32x32\.mat"):
        readers.read_mats([files[0], files[2]], dataset)
    _mat(files[2], test[0][:, :28], test[1])
    with pytest.raises(SourceError, match=r"test_32x32\.mat: images \(28, 32, 3, 104\)"):
        readers.read_mats(files, dataset)
