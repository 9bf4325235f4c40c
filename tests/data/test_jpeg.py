"""JPEGs of any size: written as FFCV does, checked, and delivered in the same boxes by both backends."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import photos
import pytest
import torch
from PIL import Image

from pipeline.data import jpeg_store
from pipeline.data.beton import Beton, open_card, open_split
from pipeline.data.convert_jpeg import convert_jpegs
from pipeline.data.jpeg import boxes, views
from pipeline.data.loader import Loader
from pipeline.data.preprocessing import Preprocessing
from pipeline.data.resized_crop import RandomCrops
from pipeline.data.sampler import sample_order
from pipeline.dataset_config import SPLITS
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
    convert_jpegs(raw, to, list(SPLITS), 4, MAX_SIDE, QUALITY)
    return to


@pytest.fixture(scope="module")
def train(folder: Path) -> Beton:
    return open_split(folder, "train")


def test_the_card_describes_the_images(raw: Path, folder: Path) -> None:
    card = open_card(folder)
    assert (card["kind"], card["max_side"], card["quality"]) == ("jpeg", MAX_SIDE, QUALITY)
    for split, each in (("train", 3), ("test", 2)):
        entry, beton = card["splits"][split], open_split(folder, split)
        store = jpeg_store.open_split(raw, split)
        assert entry["images"] == beton.samples == 4 * each
        assert entry["images_per_class"] == [each] * 4
        assert entry["source_digest"] == jpeg_store.files_digest(store.labels, store.sha256)
        assert entry["beton"]["bytes"] == beton.path.stat().st_size
        assert entry["jpeg_bytes"]["total"] == beton.sizes.sum()
        for name, values in (("height", beton.heights), ("width", beton.widths), ("jpeg_bytes", beton.sizes)):
            assert entry[name]["smallest"] == values.min()
            assert entry[name]["largest"] == values.max()
            assert sorted(values)[(len(values) - 1) // 2] == entry[name]["median"]


def test_converting_twice_gives_equal_bytes_and_leaves_nothing_else(folder: Path, raw: Path, tmp_path: Path) -> None:
    again = tmp_path / folder.name
    convert_jpegs(raw, again, list(SPLITS), 4, MAX_SIDE, QUALITY)
    assert sorted(path.name for path in again.iterdir()) == ["card.json", "test.beton", "train.beton"]
    for file in folder.iterdir():
        assert (again / file.name).read_bytes() == file.read_bytes(), file.name
    assert [path.name for path in tmp_path.iterdir()] == [folder.name]


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


def test_the_numpy_backend_in_our_order(folder: Path, train: Beton) -> None:
    loader = Loader(folder, "train", 5, "numpy")
    order = sample_order(1, 0, 12)
    for crops in (RandomCrops(1, 0), RandomCrops(1, 1), None):
        batches = list(loader.batches(order, crops))
        assert [len(batch.labels) for batch in batches] == [5, 5, 2]
        assert np.array_equal(np.concatenate([batch.indices for batch in batches]), order)
        assert np.array_equal(np.concatenate([batch.labels for batch in batches]), train.labels[order])
        images = np.concatenate([batch.images for batch in batches])
        assert images.dtype == np.uint8
        assert np.array_equal(images, views(train, order, boxes(train, order, crops)))
        # From the middle on, as after a resume, the same images.
        rest = np.concatenate([batch.images for batch in loader.batches(order[5:], crops)])
        assert np.array_equal(rest, images[5:])
    first, second = (next(loader.batches(order, RandomCrops(1, epoch))).images for epoch in (0, 1))
    assert (first != second).any(axis=(1, 2, 3)).all()


@pytest.mark.soak
@pytest.mark.parametrize("workers", [1, 2])
def test_ffcv_sees_the_same_boxes(folder: Path, workers: int) -> None:
    """Pixels differ as the two decoders do, by few levels; half a box away they would differ by tens."""
    plain = Loader(folder, "train", 5, "numpy")
    fast = Loader(folder, "train", 5, "ffcv", workers=min(workers, os.cpu_count() or 1))
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
    order = np.array([3, 3, 11, 0, 3, 3])
    assert len(list(fast.batches(order, RandomCrops(1, 0)))) == 2
    batches = fast.batches(np.arange(12), RandomCrops(1, 5))
    next(batches)
    batches.close()
    again = np.concatenate([batch.images for batch in fast.batches(sample_order(1, 2, 12), RandomCrops(1, 2))])
    first = np.concatenate([batch.images for batch in fast.batches(sample_order(1, 2, 12), RandomCrops(1, 2))])
    assert np.array_equal(again, first)


def test_red_stays_red_on_the_way_to_the_network(tmp_path: Path) -> None:
    """The first channel is red, with the mean and standard deviation of ImageNet's red."""
    red = np.zeros((1, 224, 224, 3), np.uint8)
    red[..., 0] = 255
    decoded = jpeg_store.decode(photos.jpeg(Image.fromarray(red[0])), "red")
    assert np.abs(decoded.reshape(-1, 3).mean(axis=0) - [254, 0, 0]).max() < 2
    passed = Preprocessing("imagenet")(torch.from_numpy(red))
    assert passed.shape == (1, 3, 224, 224)
    expected = [(1 - 0.485) / 0.229, -0.456 / 0.224, -0.406 / 0.225]
    assert np.allclose(passed.mean(dim=(0, 2, 3)).numpy(), expected, atol=1e-4)


def test_crops_of_images_of_one_size_are_refused(tiny_beton: Path) -> None:
    with pytest.raises(ValueError, match="for JPEGs"):
        Loader(tiny_beton, "test", 32, "numpy").batches(np.arange(3), RandomCrops(1, 0))


def test_an_image_that_cannot_be_decoded_ends_the_conversion(tmp_path: Path) -> None:
    tree = photos.make_tree(tmp_path / "tree")
    broken = min((tree / "val").rglob("*.JPEG"), key=lambda path: path.name)
    broken.write_bytes(broken.read_bytes()[:-800])
    raw = photos.store(tree, tmp_path / "raw")
    with pytest.raises(UserError, match=rf"test {broken.name}: cannot be decoded") as caught:
        convert_jpegs(raw, tmp_path / "to", list(SPLITS), 4, MAX_SIDE, QUALITY)
    assert "replace that image" in caught.value.remedy
    assert sorted(path.name for path in tmp_path.iterdir()) == ["raw", "tree"]


def test_an_image_that_would_vanish_is_refused(tmp_path: Path) -> None:
    tree = photos.make_tree(tmp_path / "tree")
    thin = min((tree / "val").rglob("*.JPEG"), key=lambda path: path.name)
    thin.write_bytes(photos.jpeg(Image.new("RGB", (300, 1))))
    raw = photos.store(tree, tmp_path / "raw")
    with pytest.raises(UserError, match=rf"test {thin.name}: 300 x 1 pixels cannot be scaled to 200"):
        convert_jpegs(raw, tmp_path / "to", list(SPLITS), 4, MAX_SIDE, QUALITY)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["raw", "tree"]
