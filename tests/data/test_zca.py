"""The authors' whitening against scikit-learn's PCA, against its own inverse, and against what it must not look at."""

import numpy as np
import pytest
from sklearn.decomposition import PCA

from pipeline.data import zca
from pipeline.data.readers import Splits

SPLITS = ("train", "test")


@pytest.fixture(scope="module")
def images(tiny_images: Splits) -> dict[str, np.ndarray]:
    """12 x 12 pixels: 432 values, still more than there are images, whose eigenvectors take no minute."""
    return {split: np.ascontiguousarray(tiny_images[split][0][:, 10:22, 10:22]) for split in SPLITS}


@pytest.fixture(scope="module")
def whitening(images: dict[str, np.ndarray]) -> zca.Whitening:
    return zca.fit(images["train"])


def test_each_image_has_mean_0_and_norm_55(tiny_images: Splits) -> None:
    X = zca.normalize_contrast(tiny_images["train"][0])
    assert X.shape == (260, 3072)
    assert np.abs(X.mean(axis=1)).max() < 1e-12
    assert np.allclose(np.linalg.norm(X, axis=1), 55, rtol=1e-12)
    # The same picture, only lifted and stretched.
    pixels = tiny_images["train"][0][17].reshape(-1)
    assert np.corrcoef(pixels, X[17])[0, 1] == pytest.approx(1, abs=1e-12)


def test_an_image_of_one_colour_is_grey_and_not_a_division_by_zero(whitening: zca.Whitening) -> None:
    flat = np.full((2, 12, 12, 3), 200, np.uint8)
    assert not zca.normalize_contrast(flat).any()
    assert np.isfinite(zca.apply(whitening, flat)).all()


def test_it_is_scikit_learns_pca_rotated_back(tiny_images: Splits) -> None:
    """Independent route: an SVD of the data, no covariance. On small images, where N > D and all directions are seen.

    scikit-learn divides by N - 1 and has no 0.1 on the diagonal; both are put in by hand.
    """
    images = {split: tiny_images[split][0][:, 8:14, 8:14] for split in SPLITS}  # 108 values from 260 images
    X = {split: zca.normalize_contrast(images[split]) for split in SPLITS}
    n = len(X["train"])
    pca = PCA(svd_solver="full").fit(X["train"])
    scaled = pca.transform(X["test"]) / np.sqrt(pca.explained_variance_ * (n - 1) / n + 0.1)
    expected = scaled @ pca.components_
    found = zca.apply(zca.fit(images["train"]), images["test"])
    assert found.dtype == np.float32
    assert np.allclose(found.reshape(104, -1), expected, atol=1e-5)
    assert np.abs(expected).max() > 1


def test_the_same_by_the_singular_values_of_fewer_images_than_pixels(
    images: dict[str, np.ndarray], whitening: zca.Whitening
) -> None:
    """Where no image varies, the variance is the 0.1 alone: 260 images span at most 259 of 432 directions."""
    X = zca.normalize_contrast(images["train"])
    centred = X - X.mean(axis=0)
    _, singular, directions = np.linalg.svd(centred, full_matrices=False)
    Y = zca.normalize_contrast(images["test"]) - X.mean(axis=0)
    seen = Y @ directions.T
    expected = (seen / np.sqrt(singular**2 / 260 + 0.1)) @ directions + (Y - seen @ directions) / np.sqrt(0.1)
    assert np.allclose(zca.apply(whitening, images["test"]).reshape(104, -1), expected, atol=1e-4)


def test_the_training_images_come_out_white(tiny_images: Splits) -> None:
    images = tiny_images["train"][0][:, 8:12, 8:12]
    white = zca.fit(images)
    W = zca.apply(white, images).reshape(260, -1).astype(np.float64)
    assert np.abs(W.mean(axis=0)).max() < 1e-5
    # Variance v becomes v / (v + 0.1): all but 1, and no two directions correlate.
    vectors = np.linalg.eigh(np.cov(zca.normalize_contrast(images).T, bias=True))[1]
    rotated = np.cov((W @ vectors).T, bias=True)
    assert np.allclose(rotated, np.diag((white.eigenvalues - 0.1) / white.eigenvalues), atol=1e-5)
    assert np.array_equal(np.sort(white.eigenvalues), white.eigenvalues)


def test_neither_signs_nor_the_order_of_values_matter(tiny_images: Splits) -> None:
    images = tiny_images["train"][0][:, :6, :6]
    white = zca.fit(images)
    assert np.allclose(white.matrix, white.matrix.T, atol=1e-12)
    channels_first = np.ascontiguousarray(images.transpose(0, 3, 1, 2))
    other = zca.apply(zca.fit(channels_first), channels_first).transpose(0, 2, 3, 1)
    assert np.allclose(other, zca.apply(white, images), atol=1e-5)


def test_chunks_change_nothing_but_the_last_digits(
    images: dict[str, np.ndarray], whitening: zca.Whitening, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(zca, "_CHUNK", 37)
    parts = zca.fit(images["train"])
    assert np.allclose(parts.mean, whitening.mean, atol=1e-12)
    assert np.allclose(parts.matrix, whitening.matrix, atol=1e-9)
    one_by_one = np.stack(list(zca.whitened(whitening, images["test"])))
    assert one_by_one.dtype == np.float32
    assert np.allclose(one_by_one, zca.apply(whitening, images["test"]), atol=1e-5)


def test_the_spectrum_falls_and_has_both_ends(whitening: zca.Whitening) -> None:
    found = zca.spectrum(whitening)
    assert (found["dimensions"], found["ranks"][0], found["ranks"][-1]) == (432, 1, 432)
    assert len(found["ranks"]) == len(found["eigenvalues"]) == 256
    assert found["eigenvalues"] == sorted(found["eigenvalues"], reverse=True)
    assert found["eigenvalues"][0] == pytest.approx(whitening.eigenvalues.max(), rel=1e-5)
    assert found["eigenvalues"][-1] == pytest.approx(0.1, rel=1e-5)
