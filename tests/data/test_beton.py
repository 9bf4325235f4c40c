"""The .beton files that we write are FFCV's own, byte for byte, and none is read whose digest is another."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import photos
import pytest

from pipeline.data import beton
from pipeline.data.convert_arrays import convert
from pipeline.data.convert_jpeg import convert_jpegs
from pipeline.data.jpeg_store import decode, open_split
from pipeline.data.readers import Splits
from pipeline.dataset_config import SPLITS
from pipeline.errors import UserError

# In a process of its own: FFCV's writer forks, and waits for ever for a worker that died.
BY_FFCV = """
import sys
import numpy as np
from ffcv.fields import IntField, NDArrayField, RGBImageField
from ffcv.writer import DatasetWriter

class Samples:
    def __len__(self):
        return len(arrays["labels"])
    def __getitem__(self, i):
        image = arrays["images"][i]
        if kind == "jpeg":
            height, width = arrays["sides"][i]
            image = image[:height, :width]
        return image, int(arrays["labels"][i])

kind, arrays, to = sys.argv[1], dict(np.load(sys.argv[2])), sys.argv[3]
field = {
    "rgb": lambda: RGBImageField(write_mode="raw"),
    "zca": lambda: NDArrayField(arrays["images"].dtype, arrays["images"].shape[1:]),
    "jpeg": lambda: RGBImageField(write_mode="jpg", max_resolution=200, jpeg_quality=90),
}[kind]()
DatasetWriter(to, {"image": field, "label": IntField()}, num_workers=1).from_indexed_dataset(Samples(), chunksize=1000)
"""


def by_ffcv(kind: str, folder: Path, **arrays: np.ndarray) -> bytes:
    np.savez(folder / "arrays.npz", **arrays)
    command = [sys.executable, "-c", BY_FFCV, kind, str(folder / "arrays.npz"), str(folder / "by-ffcv.beton")]
    subprocess.run(command, check=True, capture_output=True, timeout=120)
    return (folder / "by-ffcv.beton").read_bytes()


@pytest.mark.parametrize("kind", ["rgb", "zca"])
def test_arrays_are_written_as_ffcv_writes_them(kind: beton.Kind, tiny_images: Splits, tmp_path: Path) -> None:
    """So many images that they fill more than one page of 8 MB, and no whole number of images fills a page."""
    images, labels = (np.tile(array, (12, *[1] * (array.ndim - 1))) for array in tiny_images["train"])
    images = np.ascontiguousarray(images[:, :, :31])
    if kind == "zca":
        images = (images / np.float32(77) - 1).astype(np.float32)
    beton.write(tmp_path / "ours.beton", kind, np.tile([31, 32], (len(labels), 1)), labels, images)
    assert (tmp_path / "ours.beton").read_bytes() == by_ffcv(kind, tmp_path, images=images, labels=labels)
    read, read_labels = beton.read(tmp_path / "ours.beton")
    assert read.dtype == images.dtype
    assert np.array_equal(read, images)
    assert np.array_equal(read_labels, labels)


def test_jpegs_are_scaled_encoded_and_written_as_by_ffcv(tmp_path: Path) -> None:
    raw = photos.store(photos.make_tree(tmp_path / "tree"), tmp_path / "raw")
    convert_jpegs(raw, tmp_path / "photos-jpeg", list(SPLITS), 4, 200, 90)
    store = open_split(raw, "train")
    decoded = [decode(store.read(i), "x") for i in range(len(store.labels))]
    sides = np.array([pixels.shape[:2] for pixels in decoded])
    images = np.zeros((len(decoded), *sides.max(axis=0), 3), np.uint8)
    for image, pixels in zip(images, decoded, strict=True):
        image[: pixels.shape[0], : pixels.shape[1]] = pixels
    theirs = by_ffcv("jpeg", tmp_path, images=images, sides=sides, labels=store.labels)
    assert (tmp_path / "photos-jpeg/train.beton").read_bytes() == theirs
    found = beton.open_split(tmp_path / "photos-jpeg", "train")
    content = found.path.read_bytes()
    assert 0 < (sides.max(axis=1) > 200).sum() < len(sides)
    for height, width, start, size in zip(found.heights, found.widths, found.pointers, found.sizes, strict=True):
        image = cv2.imdecode(np.frombuffer(content[start : start + size], np.uint8), cv2.IMREAD_COLOR)
        assert image is not None
        assert image.shape == (height, width, 3)


def test_what_does_not_fit_the_layout_is_not_written(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="2 images, not 3"):
        beton.write(tmp_path / "x.beton", "jpeg", np.ones((3, 2), np.int64), [0, 1, 2], [b"x"] * 2)
    with pytest.raises(ValueError, match="does not fit a page"):
        beton.write(tmp_path / "x.beton", "jpeg", np.ones((1, 2), np.int64), [0], [bytes(2**23 + 1)])


@pytest.fixture
def folder(tiny_beton: Path, tmp_path: Path) -> Path:
    """A copy, to be changed."""
    return shutil.copytree(tiny_beton, tmp_path / tiny_beton.name)


@pytest.mark.parametrize("at", [0, 9, 2000, 5_000_000, -10, -2_000_000])
def test_a_file_with_a_changed_bit_is_refused(folder: Path, at: int) -> None:
    content = bytearray((folder / "train.beton").read_bytes())
    content[at] ^= 1
    (folder / "train.beton").write_bytes(content)
    with pytest.raises(UserError, match=r"train\.beton is not the file that .*card\.json describes") as caught:
        beton.open_split(folder, "train")
    assert caught.value.remedy == f"delete {folder} and run wrn-pipe repro convert@{folder.name}"
    beton.open_split(folder, "test")


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("train.beton", None, "train.beton not found"),
        ("train.beton", b"", "train.beton is not the file that"),
        ("card.json", None, "card.json not found"),
        ("card.json", b"{", "card.json: "),
        ("card.json", b"\xff", "card.json: "),
        ("card.json", b"3", "card.json: "),
        ("card.json", b"{}", "card.json does not describe train"),
        ("card.json", b'{"splits": {"train": {"beton": null}}}', "card.json does not describe train"),
    ],
)
def test_a_folder_that_is_not_whole_is_refused(folder: Path, name: str, content: bytes | None, said: str) -> None:
    (folder / name).unlink() if content is None else (folder / name).write_bytes(content)
    with pytest.raises(UserError, match=said) as caught:
        beton.open_split(folder, "train")
    assert f"wrn-pipe repro convert@{folder.name}" in caught.value.remedy


def test_a_file_that_is_not_a_beton_is_said_to_be_none(tmp_path: Path) -> None:
    for content in (b"", b"x" * 24):
        (tmp_path / "x.beton").write_bytes(content)
        with pytest.raises(UserError, match=r"x\.beton: not a \.beton file"):
            beton.inspect(tmp_path / "x.beton")


def test_the_card_describes_the_images(tiny_beton: Path, tiny_images: Splits) -> None:
    for split, (images, labels) in tiny_images.items():
        entry = beton.open_card(tiny_beton)["splits"][split]
        assert entry["images"] == len(labels)
        assert entry["images_per_class"] == np.bincount(labels, minlength=10).tolist()
        assert np.allclose(entry["mean"], images.mean((0, 1, 2)) / 255, atol=1e-7)
        assert np.allclose(entry["std"], images.std((0, 1, 2)) / 255, atol=1e-7)
        assert entry["beton"]["bytes"] == (tiny_beton / f"{split}.beton").stat().st_size


@pytest.mark.parametrize("kind", ["rgb", "zca"])
def test_converting_twice_gives_equal_bytes_and_leaves_nothing_else(
    kind: str, tiny_images: Splits, tmp_path: Path
) -> None:
    raw = tmp_path / "raw"
    raw.mkdir()
    for split, (images, labels) in tiny_images.items():
        np.save(raw / f"{split}_images.npy", images[:, 12:18, 12:20])
        np.save(raw / f"{split}_labels.npy", labels)
    made = []
    for _ in range(2):
        convert(raw, tmp_path / "to", list(SPLITS), 10, kind)
        made.append({path.name: path.read_bytes() for path in (tmp_path / "to").iterdir()})
    assert made[0] == made[1]
    assert sorted(made[0]) == ["card.json", "test.beton", "train.beton"]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["raw", "to"]
    card = json.loads(made[0]["card.json"])
    assert card.get("kind") == (None if kind == "rgb" else "zca")


def test_missing_arrays_are_named_and_nothing_is_left(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"train_images\.npy not found") as caught:
        convert(tmp_path / "raw", tmp_path / "to", list(SPLITS), 10)
    assert caught.value.remedy == "wrn-pipe repro download@raw"
    assert not list(tmp_path.iterdir())
