"""The authors' whitening against scikit-learn's PCA, against its own inverse, and against what it must not look at."""

from pathlib import Path

import numpy as np
import pytest
from sklearn.decomposition import PCA

from pipeline.data import image_grid, zca
from pipeline.data.readers import Splits

SPLITS = ("train", "test")


@pytest.fixture(scope="module")
def whitening(tiny_images: Splits) -> zca.Whitening:
    return zca.fit(tiny_images["train"][0])


def test_each_image_has_mean_0_and_norm_55(tiny_images: Splits) -> None:
    X = zca.normalize_contrast(tiny_images["train"][0])
    assert X.shape == (260, 3072)
    assert np.abs(X.mean(axis=1)).max() < 1e-12
    assert np.allclose(np.linalg.norm(X, axis=1), 55, rtol=1e-12)
    # The same picture, only lifted and stretched.
    pixels = tiny_images["train"][0][17].reshape(-1)
    assert np.corrcoef(pixels, X[17])[0, 1] == pytest.approx(1, abs=1e-12)


def test_an_image_of_one_colour_is_grey_and_not_a_division_by_zero(whitening: zca.Whitening) -> None:
    flat = np.full((2, 32, 32, 3), 200, np.uint8)
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
    tiny_images: Splits, whitening: zca.Whitening
) -> None:
    """Where no image varies, the variance is the 0.1 alone: 260 images span at most 259 of 3072 directions."""
    X = zca.normalize_contrast(tiny_images["train"][0])
    centred = X - X.mean(axis=0)
    _, singular, directions = np.linalg.svd(centred, full_matrices=False)
    Y = zca.normalize_contrast(tiny_images["test"][0]) - X.mean(axis=0)
    seen = Y @ directions.T
    expected = (seen / np.sqrt(singular**2 / 260 + 0.1)) @ directions + (Y - seen @ directions) / np.sqrt(0.1)
    assert np.allclose(zca.apply(whitening, tiny_images["test"][0]).reshape(104, -1), expected, atol=1e-4)


def test_the_inverse_gives_the_image_back(tiny_images: Splits, whitening: zca.Whitening) -> None:
    whitened = zca.apply(whitening, tiny_images["test"][0]).reshape(104, -1)
    back = np.linalg.solve(whitening.matrix, whitened.T.astype(np.float64)).T + whitening.mean
    assert np.allclose(back, zca.normalize_contrast(tiny_images["test"][0]), atol=1e-3)


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


def _save(folder: Path, splits: dict[str, np.ndarray]) -> dict[str, Path]:
    folder.mkdir()
    for split, images in splits.items():
        np.save(folder / f"{split}.npy", images)
    return {split: folder / f"{split}.npy" for split in splits}


def test_files_are_whitened_by_the_training_images_alone(tiny_images: Splits, tmp_path: Path) -> None:
    images = {split: tiny_images[split][0][:, :8, :8] for split in SPLITS}
    outs = []
    for name, test in (("a", images["test"]), ("b", images["test"][::-1]), ("c", 255 - images["test"][:5])):
        raw = _save(tmp_path / name, {"train": images["train"], "test": test})
        to = {split: tmp_path / name / f"white-{split}.npy" for split in SPLITS}
        zca.whiten(raw, to)
        outs.append({split: np.load(to[split]) for split in SPLITS})
    assert outs[0]["train"].dtype == np.float32
    assert outs[0]["train"].shape == (260, 8, 8, 3)
    for other in outs[1:]:
        assert np.array_equal(other["train"], outs[0]["train"])
    assert np.allclose(outs[1]["test"][::-1], outs[0]["test"], atol=1e-5)
    assert not np.allclose(outs[2]["test"], outs[0]["test"][:5], atol=0.1)


def test_chunks_change_nothing_but_the_last_digits(
    tiny_images: Splits, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    images = tiny_images["train"][0][:, :8, :8]
    whole = zca.fit(images)
    monkeypatch.setattr(zca, "_CHUNK", 37)
    parts = zca.fit(images)
    assert np.allclose(parts.mean, whole.mean, atol=1e-12)
    assert np.allclose(parts.matrix, whole.matrix, atol=1e-9)
    raw = _save(tmp_path / "x", {"train": images})
    zca.whiten(raw, {"train": tmp_path / "w.npy"})
    assert np.allclose(np.load(tmp_path / "w.npy"), zca.apply(whole, images), atol=1e-5)


def test_the_spectrum_falls_and_has_both_ends(whitening: zca.Whitening) -> None:
    found = zca.spectrum(whitening)
    assert (found["dimensions"], found["ranks"][0], found["ranks"][-1]) == (3072, 1, 3072)
    assert len(found["ranks"]) == len(found["eigenvalues"]) == 256
    assert found["eigenvalues"] == sorted(found["eigenvalues"], reverse=True)
    assert found["eigenvalues"][0] == pytest.approx(whitening.eigenvalues.max(), rel=1e-5)
    assert found["eigenvalues"][-1] == pytest.approx(0.1, rel=1e-5)


def test_the_picture_shows_each_image_above_its_whitened_self(tiny_images: Splits, whitening: zca.Whitening) -> None:
    images, labels = tiny_images["train"]
    whitened = zca.apply(whitening, images)
    picture = np.asarray(image_grid.before_and_after(images, whitened, labels, pairs=2))
    size = 3 * (32 + 2 * 2)
    assert picture.shape == (4 * size, 10 * size, 3)
    tiles = picture.reshape(4, size, 10, size, 3).transpose(0, 2, 1, 3, 4)[:, :, 6:102:3, 6:102:3]
    sixes = np.flatnonzero(labels == 6)
    for row, number in ((0, 0), (2, 1)):
        assert np.array_equal(tiles[row, 6], images[sixes[number]])
        values = whitened[sixes[number]].reshape(-1)
        clear = np.abs(values) < whitened.std()  # where neither black nor white is reached
        assert np.corrcoef(tiles[row + 1, 6].reshape(-1)[clear], values[clear])[0, 1] > 0.999
