"""The whitening against scikit-learn's PCA, and its floats on the road of the bytes: stored, delivered, shown."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import photos
import pytest
import torch
from sklearn.decomposition import PCA

from pipeline.data import beton, zca
from pipeline.data.augmentation import flips, offsets
from pipeline.data.batches import Inputs, Preprocessing
from pipeline.data.conversion import convert
from pipeline.data.digest import split_digest
from pipeline.data.image_sheet import augmented_rows, visible
from pipeline.data.loader import Loader
from pipeline.data.readers import Splits
from pipeline.data.sampler import sample_order


@pytest.fixture(scope="module")
def small(tiny_images: Splits) -> Splits:
    """The middle 9 x 8 pixels: an eigendecomposition of 216 dimensions and not of 3072, and no square."""
    cut = np.s_[:, 11:20, 12:20]
    return {split: (np.ascontiguousarray(images[cut]), labels) for split, (images, labels) in tiny_images.items()}


@pytest.fixture(scope="module", autouse=True)
def several_chunks() -> Iterator[None]:
    """The last one is shorter."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(zca, "_CHUNK", 37)
        yield


@pytest.fixture(scope="module")
def white(small: Splits) -> dict[str, np.ndarray]:
    whitening = zca.fit(small["train"][0])
    return {split: np.stack(list(zca.whitened(whitening, images))) for split, (images, _) in small.items()}


@pytest.fixture(scope="module")
def folder(small: Splits, tmp_path_factory: pytest.TempPathFactory) -> Path:
    to = tmp_path_factory.mktemp("beton") / "tiny-zca"
    convert(photos.raw(small, tmp_path_factory.mktemp("small") / "raw"), to, 10, "zca")
    return to


def test_each_image_has_mean_0_and_norm_55(tiny_images: Splits) -> None:
    X = zca.normalize_contrast(tiny_images["train"][0])
    assert X.shape == (260, 3072)
    assert np.abs(X.mean(axis=1)).max() < 1e-12
    assert np.allclose(np.linalg.norm(X, axis=1), 55, rtol=1e-12)
    # The same picture, only lifted and stretched.
    pixels = tiny_images["train"][0][17].reshape(-1)
    assert np.corrcoef(pixels, X[17])[0, 1] == pytest.approx(1, abs=1e-12)
    # One colour has no contrast: grey, and not a division by zero.
    assert not zca.normalize_contrast(np.full((2, 12, 12, 3), 200, np.uint8)).any()


def test_it_is_scikit_learns_pca_rotated_back(small: Splits, white: dict[str, np.ndarray]) -> None:
    """Independent route: an SVD of the data, no covariance. scikit-learn divides by N - 1 and has no 0.1 on the
    diagonal; both are put in by hand."""
    X = {split: zca.normalize_contrast(images) for split, (images, _) in small.items()}
    n = len(X["train"])
    pca = PCA(svd_solver="full").fit(X["train"])
    scaled = pca.transform(X["test"]) / np.sqrt(pca.explained_variance_ * (n - 1) / n + 0.1)
    expected = scaled @ pca.components_
    assert white["test"].dtype == np.float32
    assert np.allclose(white["test"].reshape(104, -1), expected, atol=1e-5)
    assert np.abs(expected).max() > 1


def test_the_card_describes_what_is_stored(folder: Path, white: dict[str, np.ndarray], small: Splits) -> None:
    card = beton.open_card(folder)
    assert card["kind"] == "zca"
    assert card["whitening"]["fitted_on"] == {"split": "train", "images": 260}
    spectrum = card["whitening"]["spectrum"]
    assert (spectrum["dimensions"], spectrum["ranks"]) == (216, list(range(1, 217)))
    assert spectrum["eigenvalues"] == sorted(spectrum["eigenvalues"], reverse=True)
    for split, images in white.items():
        entry = card["splits"][split]
        assert entry["dtype"] == "float32"
        assert (entry["images"], entry["height"], entry["width"]) == images.shape[:3]
        assert entry["digest"] == split_digest(images, small[split][1])
        assert np.allclose(entry["mean"], images.mean((0, 1, 2), dtype=np.float64), atol=1e-6)
        assert np.allclose(entry["std"], images.std((0, 1, 2), dtype=np.float64), atol=1e-6)
    # Fitted on the training split, so its mean is 0 and the test split's is not.
    assert max(map(abs, card["splits"]["train"]["mean"])) < 1e-5 < max(map(abs, card["splits"]["test"]["mean"]))


def test_trainings_and_the_picture_are_given_them_moved_as_the_published_ones_are(
    folder: Path, white: dict[str, np.ndarray], small: Splits
) -> None:
    chosen = sample_order(1, 0, 260)
    moves = flips("per-image", 1, 0, chosen), *offsets("per-image", 1, 0, chosen, 0)
    moved = photos.moved(white["train"][chosen], *moves)
    for dtype in (torch.float32, torch.bfloat16):
        loader, cpu = Loader(folder, "train", 48, "numpy"), torch.device("cpu")
        inputs = Inputs(loader, Preprocessing("zca"), "per-image", "per-image", 1, dtype, cpu)
        made = torch.cat([batch.images for batch in inputs.batches(0, chosen)])
        assert torch.equal(made, torch.from_numpy(moved).permute(0, 3, 1, 2).to(dtype))
        assert made.is_contiguous(memory_format=torch.channels_last)
    rows = augmented_rows(small["train"][0], chosen, 1, 0, folder)
    assert np.array_equal(rows["flipped, cropped"], photos.moved(small["train"][0][chosen], *moves))
    assert np.array_equal(rows["the same, whitened"], visible(moved))
