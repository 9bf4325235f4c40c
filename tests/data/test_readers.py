"""pipeline.data.readers: the same arrays out of every published form, and refusal of all that is not one."""

import pickle
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.data import readers
from pipeline.data.digest import to_records
from pipeline.data.readers import Splits
from pipeline.dataset_config import Dataset, ReaderName, SourceError, Split
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


def test_the_registry_knows_every_reader_that_params_may_name() -> None:
    # SVHN's files and ImageNet's folder are no CIFAR layouts.
    assert set(readers.LAYOUTS) == set(get_args(ReaderName)) - {"svhn-mat", "imagenet-folder"}


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


def test_pickles_of_todays_python_and_numpy_are_read_too(tiny: Dataset, tiny_images: Splits, tmp_path: Path) -> None:
    for split, parts in readers.LAYOUTS[tiny.reader].parts.items():
        images, labels = tiny_images[split]
        size = len(images) // len(parts)
        for number, part in enumerate(parts):
            rows = slice(number * size, (number + 1) * size)
            batch = {b"data": to_records(images[rows], labels[rows])[:, 1:], b"labels": labels[rows].tolist()}
            (tmp_path / part).write_bytes(pickle.dumps(batch, protocol=4))
    _equal(readers.read_python_folder(tmp_path, tiny), tiny_images)


def test_cifar100_has_two_label_bytes_and_the_fine_one_counts(
    tiny_dataset_entry: Callable[[str], dict[str, Any]], tiny_images: Splits, tmp_path: Path
) -> None:
    entry = {**tiny_dataset_entry("http://127.0.0.1/x"), "reader": "cifar100-python", "record_digests": None}
    dataset = Dataset.model_validate(entry)
    for split, (images, labels) in tiny_images.items():
        records = to_records(images, labels)
        coarse = np.full((len(records), 1), 19, np.uint8)
        (tmp_path / f"{split}.bin").write_bytes(np.concatenate([coarse, records], axis=1).tobytes())
        batch = {b"data": records[:, 1:], b"fine_labels": labels.tolist(), b"coarse_labels": [19] * len(records)}
        (tmp_path / split).write_bytes(pickle.dumps(batch))
    _equal(readers.read_binary_folder(tmp_path, dataset), tiny_images)
    _equal(readers.read_python_folder(tmp_path, dataset), tiny_images)


@settings(max_examples=25)
@given(seed=st.integers(0, 2**32 - 1), counts=st.tuples(st.integers(1, 3), st.integers(1, 5)))
def test_the_binary_version_gives_back_any_split(
    tmp_path_factory: pytest.TempPathFactory, seed: int, counts: tuple[int, int]
) -> None:
    random = np.random.default_rng(seed)
    folder = tmp_path_factory.mktemp("binary")
    sizes: dict[Split, int] = {"train": 5 * counts[0], "test": counts[1]}
    wanted: Splits = {
        split: (random.integers(0, 256, (n, 32, 32, 3), np.uint8), random.integers(0, 10, n))
        for split, n in sizes.items()
    }
    for split, parts in readers.LAYOUTS["cifar-python"].parts.items():
        for part, rows in zip(parts, np.split(to_records(*wanted[split]), len(parts)), strict=True):
            (folder / f"{part}.bin").write_bytes(rows.tobytes())
    _equal(readers.read_binary_folder(folder, _dataset(sizes)), wanted)


def _dataset(sizes: dict[Split, int]) -> Dataset:
    return Dataset.model_validate(
        {
            **dict.fromkeys(("title", "homepage", "licence", "citation"), "x"),
            **dict.fromkeys(("record_digests",)),
            "digests": dict.fromkeys(("train", "test"), "0" * 64),
            "reader": "cifar-python",
            "classes": 10,
            "shape": [32, 32, 3],
            "splits": sizes,
            "sources": [{"folder": True}],
        }
    )


def test_a_binary_file_of_broken_records_is_refused(tiny: Dataset, tmp_path: Path) -> None:
    (tmp_path / "data_batch_1.bin").write_bytes(bytes(3074))
    with pytest.raises(SourceError, match="no whole number of 3073-byte records"):
        readers.read_binary_folder(tmp_path, tiny)
    (tmp_path / "data_batch_1.bin").write_bytes(bytes(3073))
    with pytest.raises(SourceError, match=r"data_batch_2\.bin: No such file"):
        readers.read_binary_folder(tmp_path, tiny)


def test_the_npm_layout_gives_the_same_arrays(tiny: Dataset, tiny_images: Splits, tmp_path: Path) -> None:
    _equal(readers.read_npm_tarball(tar(tmp_path / "a.tgz", npm_members(tiny_images)), tiny), tiny_images)


def test_unpacked_batches_read_like_the_archive(
    tiny: Dataset, tiny_archive: Path, tiny_images: Splits, tmp_path: Path
) -> None:
    shutil.unpack_archive(tiny_archive, tmp_path, filter="data")
    _equal(readers.read_python_folder(tmp_path / BATCHES, tiny), tiny_images)
