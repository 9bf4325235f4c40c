"""JPEGs of any size: written as FFCV does, checked, and delivered in the same boxes by both backends."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import photos
import pytest
from PIL import Image

from pipeline.data import jpeg_store
from pipeline.data.augmentation import RandomCrops
from pipeline.data.beton import Beton, open_card, open_split
from pipeline.data.conversion import convert_jpegs
from pipeline.data.loader import Loader, boxes, views
from pipeline.data.sampler import sample_order
from pipeline.errors import UserError

MAX_SIDE, QUALITY = 200, 90


@pytest.fixture(scope="module")
def raw(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return photos.store(
        photos.make_tree(tmp_path_factory.mktemp("tree")), tmp_path_factory.mktemp("data") / "raw/photos"
    )


@pytest.fixture(scope="module")
def folder(raw: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Not to be changed."""
    to = tmp_path_factory.mktemp("beton") / "photos-jpeg"
    convert_jpegs(raw, to, 4, MAX_SIDE, QUALITY)
    return to


def test_the_card_describes_the_images_and_converting_again_gives_equal_bytes(
    raw: Path, folder: Path, tmp_path: Path
) -> None:
    convert_jpegs(raw, tmp_path / folder.name, 4, MAX_SIDE, QUALITY)
    again = {path.name: path.read_bytes() for path in (tmp_path / folder.name).iterdir()}
    assert again == {path.name: path.read_bytes() for path in folder.iterdir()}
    assert sorted(again) == ["card.json", "test.beton", "train.beton"]
    assert [path.name for path in tmp_path.iterdir()] == [folder.name]
    card = open_card(folder)
    assert (card["kind"], card["max_side"], card["quality"]) == ("jpeg", MAX_SIDE, QUALITY)
    for split, each in (("train", 3), ("test", 2)):
        entry, beton = card["splits"][split], open_split(folder, split)
        index = jpeg_store.open_index(raw, split)
        assert entry["images"] == beton.samples == 4 * each
        assert entry["images_per_class"] == [each] * 4
        assert entry["source_digest"] == jpeg_store.files_digest(index["label"], index["sha256"])
        assert entry["beton"]["bytes"] == beton.path.stat().st_size
        assert entry["jpeg_bytes"]["total"] == beton.sizes.sum()
        for name, values in (("height", beton.heights), ("width", beton.widths), ("jpeg_bytes", beton.sizes)):
            assert entry[name]["smallest"] == values.min()
            assert entry[name]["largest"] == values.max()
            assert sorted(values)[(len(values) - 1) // 2] == entry[name]["median"]


def test_what_is_seen_is_what_lies_in_the_box(tmp_path: Path) -> None:
    """In images whose red tells the column and whose green tells the row."""
    sizes = np.array([[160, 250], [250, 100], [224, 224], [90, 60]])
    files = []
    for height, width in sizes:
        pixels = np.zeros((height, width, 3), np.uint8)
        pixels[..., 0], pixels[..., 1] = np.arange(width), np.arange(height)[:, None]
        files.append(photos.jpeg(Image.fromarray(pixels), quality=100, subsampling=0))
    (tmp_path / "x").write_bytes(b"".join(files))
    lengths = np.array([len(file) for file in files])
    beton = Beton(tmp_path / "x", "jpeg", *sizes.T, np.cumsum(lengths) - lengths, lengths, np.zeros(4, np.int64))
    order = np.array([2, 0, 3, 1])
    for crops in (None, *(RandomCrops(1, epoch) for epoch in range(8))):
        seen = boxes(beton, order, crops)
        for image, (top, left, height, width) in zip(views(beton, order, seen), seen, strict=True):
            assert (image.dtype, image.shape) == (np.uint8, (224, 224, 3))
            columns, rows = image[..., 0].mean(axis=0), image[..., 1].mean(axis=1)
            for values, start, length in ((columns, left, width), (rows, top, height)):
                assert np.abs(values - (start + (np.arange(224) + 0.5) * length / 224 - 0.5)).max() < 2.5


def test_the_numpy_backend_in_our_order(folder: Path) -> None:
    loader, train = Loader(folder, "train", 5, "numpy"), open_split(folder, "train")
    order = sample_order(1, 0, 12)
    for crops in (RandomCrops(1, 0), RandomCrops(1, 1), None):
        batches = list(loader.batches(order, crops))
        assert [len(batch.labels) for batch in batches] == [5, 5, 2]
        indices, images, labels = (
            np.concatenate([getattr(batch, name) for batch in batches]) for name in ("indices", "images", "labels")
        )
        assert np.array_equal(indices, order)
        assert np.array_equal(labels, train.labels[order])
        assert images.dtype == np.uint8
        assert np.array_equal(images, views(train, order, boxes(train, order, crops)))


@pytest.mark.soak
@pytest.mark.parametrize("workers", [1, 2])
def test_ffcv_sees_the_same_boxes(folder: Path, workers: int) -> None:
    """Pixels differ as the two decoders do, by few levels; half a box away they would differ by tens."""
    plain = Loader(folder, "train", 5, "numpy")
    fast = Loader(folder, "train", 5, "ffcv", workers=min(workers, len(os.sched_getaffinity(0))))
    for epoch in range(3):
        order = sample_order(1, epoch, 12)
        for crops in (RandomCrops(1, epoch), None):
            ours = list(fast.batches(order, crops))  # all are kept, so a batch that FFCV's ring overwrote would show
            for one, other in zip(ours, plain.batches(order, crops), strict=True):
                assert np.array_equal(one.indices, other.indices)
                assert np.array_equal(one.labels, other.labels)
                difference = np.abs(one.images.astype(int) - other.images)
                assert difference.max() <= 12
                assert difference.mean(axis=(0, 1, 2)).max() < 2  # of each channel: red is not taken for blue
    # Repeated samples, part of an epoch, an epoch left early, and then again the first.
    assert len(list(fast.batches(np.array([3, 3, 11, 0, 3, 3]), RandomCrops(1, 0)))) == 2
    left = fast.batches(np.arange(12), RandomCrops(1, 5))
    next(left)
    left.close()
    one, other = (list(fast.batches(order, RandomCrops(1, 2))) for _ in range(2))
    assert all(np.array_equal(first.images, again.images) for first, again in zip(one, other, strict=True))


def test_an_image_that_cannot_be_decoded_ends_the_conversion(tmp_path: Path) -> None:
    tree = photos.make_tree(tmp_path / "tree")
    path = min((tree / "val").rglob("*.JPEG"), key=lambda path: path.name)
    path.write_bytes(photos.jpeg(photos.photo(0))[:-8000])
    raw = photos.store(tree, tmp_path / "raw")
    with pytest.raises(UserError, match=rf"test {path.name}: not a readable image") as caught:
        convert_jpegs(raw, tmp_path / "to", 4, MAX_SIDE, QUALITY)
    assert "replace that image" in caught.value.remedy
    assert sorted(path.name for path in tmp_path.iterdir()) == ["raw", "tree"]
    with pytest.raises(UserError, match=r"train_index\.csv not found") as caught:
        convert_jpegs(tmp_path / "none", tmp_path / "to", 4, MAX_SIDE, QUALITY)
    assert caught.value.remedy == "wrn-pipe repro download@none"


def test_cmyk_grey_and_png_are_read_as_rgb_and_exif_turns_nothing() -> None:
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
    exif = Image.Exif()
    exif[0x0112] = 6
    assert jpeg_store.decode(photos.jpeg(image.resize((60, 40)), exif=exif), "turned").shape == (40, 60, 3)
