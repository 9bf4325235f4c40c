"""Whitened floats on the road of the bytes: written, checked, delivered and augmented the same, by both backends."""

from pathlib import Path

import numpy as np
import pytest
import torch
from test_augmentation import reference

from pipeline.data import beton, zca
from pipeline.data.augmentation import augment, flips, offsets
from pipeline.data.convert_arrays import convert
from pipeline.data.digest import split_digest
from pipeline.data.image_sheet import augmented_rows, visible
from pipeline.data.loader import Loader
from pipeline.data.preprocessing import Preprocessing
from pipeline.data.readers import Splits
from pipeline.data.sampler import sample_order
from pipeline.dataset_config import SPLITS


@pytest.fixture(scope="module")
def small(tiny_images: Splits) -> Splits:
    """The middle 9 x 8 pixels: an eigendecomposition of 216 dimensions and not of 3072, and no square."""
    return {
        split: (np.ascontiguousarray(images[:, 11:20, 12:20]), labels)
        for split, (images, labels) in tiny_images.items()
    }


@pytest.fixture(scope="module")
def raw(small: Splits, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("raw")
    for split, (images, labels) in small.items():
        np.save(folder / f"{split}_images.npy", images)
        np.save(folder / f"{split}_labels.npy", labels)
    return folder


@pytest.fixture(scope="module")
def folder(raw: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    to = tmp_path_factory.mktemp("beton") / "tiny-zca"
    convert(raw, to, list(SPLITS), 10, "zca")
    return to


@pytest.fixture(scope="module")
def white(small: Splits) -> dict[str, np.ndarray]:
    whitening = zca.fit(small["train"][0])
    return {split: zca.apply(whitening, images) for split, (images, _) in small.items()}


@pytest.mark.soak
def test_both_backends_deliver_the_whitened_images_in_our_order(
    folder: Path, white: dict[str, np.ndarray], small: Splits
) -> None:
    labels = small["train"][1]
    loaders = [Loader(folder, "train", 32, backend) for backend in ("ffcv", "numpy")]
    for epoch in range(3):
        order = sample_order(1, epoch, len(labels))
        first, second = (list(loader.batches(order)) for loader in loaders)
        assert [len(batch.labels) for batch in first] == [32] * 8 + [4]
        for one, other in zip(first, second, strict=True):
            assert one.images.dtype == other.images.dtype == np.float32
            assert one.images.tobytes() == other.images.tobytes()
            assert np.array_equal(one.images, white["train"][one.indices])
            assert np.array_equal(one.labels, labels[one.indices])
            assert np.array_equal(other.labels, one.labels)


def test_the_card_describes_what_is_stored(folder: Path, white: dict[str, np.ndarray], small: Splits) -> None:
    card = beton.open_card(folder)
    assert card["kind"] == "zca"
    assert card["whitening"]["fitted_on"] == {"split": "train", "images": 260}
    assert card["whitening"]["spectrum"]["dimensions"] == 216
    for split, images in white.items():
        entry = card["splits"][split]
        assert entry["dtype"] == "float32"
        assert (entry["images"], entry["height"], entry["width"]) == images.shape[:3]
        assert entry["digest"] == split_digest(images, small[split][1])
        assert np.allclose(entry["mean"], images.mean((0, 1, 2), dtype=np.float64), atol=1e-6)
        assert np.allclose(entry["std"], images.std((0, 1, 2), dtype=np.float64), atol=1e-6)
    # Fitted on the training split, so its mean is 0 and the test split's is not.
    assert max(map(abs, card["splits"]["train"]["mean"])) < 1e-5 < max(map(abs, card["splits"]["test"]["mean"]))


def test_flips_and_crops_move_floats_as_they_move_bytes(white: dict[str, np.ndarray]) -> None:
    images, indices = white["train"], np.arange(260)
    mirrored = flips("per-image", 5, 2, indices)
    rows, columns = offsets("per-image", 5, 2, indices, 0)
    made = augment(images, mirrored, rows, columns)
    assert made.dtype == np.float32
    for i in indices:
        assert made[i].tobytes() == reference(images[i], mirrored[i], rows[i], columns[i]).tobytes(), i


def test_the_picture_shows_them_moved_as_the_published_ones_are(
    folder: Path, white: dict[str, np.ndarray], small: Splits
) -> None:
    chosen = sample_order(1, 0, 260)[:12]
    rows = augmented_rows(small["train"][0], chosen, 1, 0, folder)
    assert list(rows) == ["as published", "flipped, cropped", "the same, whitened"]
    moves = flips("per-image", 1, 0, chosen), *offsets("per-image", 1, 0, chosen, 0)
    assert np.array_equal(rows["flipped, cropped"], augment(small["train"][0][chosen], *moves))
    assert np.array_equal(rows["the same, whitened"], visible(augment(white["train"][chosen], *moves)))


def test_whitened_images_reach_the_network_as_they_are(white: dict[str, np.ndarray]) -> None:
    images = torch.from_numpy(white["test"])
    passed = Preprocessing("zca")(images)
    assert passed.dtype == torch.float32
    assert torch.equal(passed, images.permute(0, 3, 1, 2))
    assert passed.is_contiguous(memory_format=torch.channels_last)
    assert not Preprocessing("zca").state_dict()


def test_images_stored_for_another_preprocessing_are_refused(white: dict[str, np.ndarray], small: Splits) -> None:
    with pytest.raises(TypeError, match=r"zca takes torch\.float32"):
        Preprocessing("zca")(torch.from_numpy(small["test"][0]))
    with pytest.raises(TypeError, match=r"meanstd takes torch\.uint8"):
        Preprocessing("meanstd")(torch.from_numpy(white["test"]))
