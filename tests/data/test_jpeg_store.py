"""Image files as they are published: decoded to RGB whatever they are, and refused where they are damaged."""

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import photos
import pytest
from PIL import Image

from pipeline.data import jpeg_store
from pipeline.dataset_config import SourceError
from pipeline.errors import UserError


@pytest.fixture(scope="module")
def stored(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Not to be changed."""
    return photos.store(photos.make_tree(tmp_path_factory.mktemp("tree")), tmp_path_factory.mktemp("data") / "raw")


@pytest.fixture
def folder(stored: Path, tmp_path: Path) -> Path:
    shutil.copytree(stored, tmp_path / "raw")
    return tmp_path / "raw"


def test_cmyk_grey_and_png_are_read_as_rgb() -> None:
    image = photos.cutting(0, np.random.default_rng(1), 100)
    plain = np.asarray(image).astype(int)
    for name, content, nearest in (
        ("png", photos.jpeg(image, "PNG"), 0.0),
        ("rgba", photos.jpeg(image.convert("RGBA"), "PNG"), 0.0),
        ("rgb", photos.jpeg(image, quality=98), 5.0),
        ("cmyk", photos.jpeg(image.convert("CMYK"), quality=98), 5.0),
    ):
        pixels = jpeg_store.decode(content, name)
        assert (pixels.dtype, pixels.shape) == (np.uint8, plain.shape)
        assert np.abs(pixels - plain).mean() <= nearest, name
    grey = jpeg_store.decode(photos.jpeg(image.convert("L")), "grey")
    assert np.array_equal(grey[..., 0], grey[..., 2])
    assert np.abs(grey - plain.mean(axis=2, keepdims=True)).mean() < 20


def test_exif_does_not_turn_an_image() -> None:
    image = photos.cutting(0, np.random.default_rng(1), 100).resize((60, 40))
    exif = Image.Exif()
    exif[0x0112] = 6
    assert jpeg_store.decode(photos.jpeg(image, exif=exif), "turned").shape == (40, 60, 3)


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (lambda folder: (folder / "train_index.csv").unlink(), "train_index.csv not found"),
        (lambda folder: (folder / "train_images.bin").unlink(), "train_images.bin not found"),
        (lambda folder: (folder / "train_index.csv").write_text("a,b\n1,2\n"), "its columns are not name, label"),
        (lambda folder: (folder / "train_index.csv").write_text(""), "train_index.csv"),
        (lambda folder: _append(folder / "train_images.bin", b"x"), "is not the index of the"),
        (lambda folder: _append(folder / "train_index.csv", b"a,b\n"), "train_index.csv"),
        (lambda folder: _append(folder / "train_index.csv", b"a,1,2,3,x,4\n"), "train_index.csv"),
    ],
)
def test_a_damaged_store_is_not_opened(damage: Any, said: str, folder: Path) -> None:
    damage(folder)
    with pytest.raises(UserError, match=said) as caught:
        jpeg_store.open_split(folder, "train")
    assert "wrn-pipe repro download@raw" in caught.value.remedy


def _append(path: Path, content: bytes) -> None:
    path.write_bytes(path.read_bytes() + content)


def test_a_changed_image_is_noticed_when_it_is_read(folder: Path) -> None:
    content = bytearray((folder / "train_images.bin").read_bytes())
    content[-5] ^= 1
    (folder / "train_images.bin").write_bytes(content)
    store = jpeg_store.open_split(folder, "train")
    store.read(0)
    with pytest.raises(UserError, match="is not the file of its index"):
        store.read(11)


def test_a_damaged_image_cannot_be_decoded() -> None:
    content = photos.jpeg(photos.photo(0))
    with pytest.raises(SourceError, match="cannot be decoded"):
        jpeg_store.decode(content[: len(content) // 2], "half")
