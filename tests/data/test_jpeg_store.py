"""Image files as they are published: decoded to RGB whatever they are, and refused where they are damaged."""

from pathlib import Path

import numpy as np
import photos
import pytest
from PIL import Image

from pipeline.data import jpeg_store
from pipeline.dataset_config import SourceError
from pipeline.errors import UserError


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


def test_a_store_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"train_index\.csv not found") as caught:
        jpeg_store.open_split(tmp_path / "raw", "train")
    assert caught.value.remedy == "wrn-pipe repro download@raw"


def test_a_damaged_image_cannot_be_decoded() -> None:
    content = photos.jpeg(photos.photo(0))
    with pytest.raises(SourceError, match="cannot be decoded"):
        jpeg_store.decode(content[: len(content) // 2], "half")
