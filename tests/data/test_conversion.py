"""The .beton files that we write are FFCV's own, byte for byte, and their cards describe them."""

import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import photos
import pytest
from PIL import Image

from pipeline.data import beton, jpeg_store
from pipeline.data.conversion import convert, convert_jpegs
from pipeline.data.jpeg_store import contents, decode, open_index
from pipeline.data.readers import Splits
from pipeline.errors import UserError

# In a process of its own: FFCV's writer forks, and waits for ever for a worker that died.
BY_FFCV = """
import sys
from pathlib import Path
import numpy as np
from pipeline.data.loader import compiling_later
with compiling_later():
    from ffcv.fields import IntField, NDArrayField, RGBImageField
    from ffcv.writer import DatasetWriter

class Samples:
    def __len__(self):
        return len(arrays["labels"])
    def __getitem__(self, i):
        height, width = arrays["sides"][i]
        return arrays["images"][i, :height, :width], int(arrays["labels"][i])

for kind in ("rgb", "zca", "jpeg"):
    arrays = dict(np.load(Path(sys.argv[1], f"{kind}.npz")))
    field = {
        "rgb": lambda: RGBImageField(write_mode="raw"),
        "zca": lambda: NDArrayField(arrays["images"].dtype, arrays["images"].shape[1:]),
        "jpeg": lambda: RGBImageField(write_mode="jpg", max_resolution=200, jpeg_quality=90),
    }[kind]()
    to = str(Path(sys.argv[1], f"{kind}.beton"))
    writer = DatasetWriter(to, {"image": field, "label": IntField()}, num_workers=1)
    writer.from_indexed_dataset(Samples(), chunksize=1000)
"""


@pytest.mark.soak
def test_files_are_those_of_ffcvs_own_writer(tiny_images: Splits, tmp_path: Path) -> None:
    """The arrays fill more than one page of 8 MB, and no whole number of images fills a page; JPEGs are scaled and
    encoded on the way."""
    images, labels = (np.tile(array, (12, *[1] * (array.ndim - 1))) for array in tiny_images["train"])
    images = np.ascontiguousarray(images[:, :, :31])
    floats = (images / np.float32(77) - 1).astype(np.float32)
    sides = np.tile([32, 31], (len(labels), 1))
    for kind, arrays in (("rgb", images), ("zca", floats)):
        np.savez(tmp_path / f"{kind}.npz", images=arrays, labels=labels, sides=sides)
    raw = photos.store(photos.make_tree(tmp_path / "tree"), tmp_path / "raw")
    index = open_index(raw, "train")
    decoded = [decode(content) for content in contents(raw, "train", index["bytes"])]
    photo_sides = np.array([pixels.shape[:2] for pixels in decoded])
    padded = np.zeros((len(decoded), *photo_sides.max(axis=0), 3), np.uint8)
    for image, pixels in zip(padded, decoded, strict=True):
        image[: pixels.shape[0], : pixels.shape[1]] = pixels
    np.savez(tmp_path / "jpeg.npz", images=padded, labels=index["label"], sides=photo_sides)
    assert 0 < (photo_sides.max(axis=1) > 200).sum() < len(photo_sides)
    command = [sys.executable, "-c", BY_FFCV, str(tmp_path)]
    subprocess.run(command, check=True, capture_output=True, timeout=120, cwd=Path(__file__).parents[2])

    for kind, arrays in (("rgb", images), ("zca", floats)):
        beton.write(tmp_path / "ours.beton", kind, sides[:, ::-1], labels, arrays)
        assert (tmp_path / "ours.beton").read_bytes() == (tmp_path / f"{kind}.beton").read_bytes(), kind
        read, read_labels = beton.read(tmp_path / "ours.beton")
        assert read.dtype == arrays.dtype
        assert np.array_equal(read, arrays)
        assert np.array_equal(read_labels, labels)
    convert_jpegs(raw, tmp_path / "photos-jpeg", 4, 200, 90)
    found = beton.open_split(tmp_path / "photos-jpeg", "train")
    content = found.path.read_bytes()
    assert content == (tmp_path / "jpeg.beton").read_bytes()
    for height, width, start, size in zip(found.heights, found.widths, found.pointers, found.sizes, strict=True):
        assert decode(content[start : start + size]).shape == (height, width, 3)


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("train.beton", None, "train.beton not found"),
        ("train.beton", b"", "train.beton is not the file that .*card.json describes"),
        ("card.json", None, "card.json not found"),
        ("card.json", b"{", "card.json: "),
        ("card.json", b"3", "card.json: "),
    ],
)
def test_a_folder_that_is_not_whole_is_refused(
    tiny_beton: Path, tmp_path: Path, name: str, content: bytes | None, said: str
) -> None:
    folder = shutil.copytree(tiny_beton, tmp_path / tiny_beton.name)
    (folder / name).unlink() if content is None else (folder / name).write_bytes(content)
    with pytest.raises(UserError, match=said) as caught:
        beton.open_split(folder, "train")
    assert f"wrn-pipe repro convert@{folder.name}" in caught.value.remedy


def test_the_card_describes_the_images(tiny_beton: Path, tiny_images: Splits) -> None:
    for split, (images, labels) in tiny_images.items():
        entry = beton.open_card(tiny_beton)["splits"][split]
        assert entry["images"] == len(labels)
        assert entry["images_per_class"] == np.bincount(labels, minlength=10).tolist()
        assert np.allclose(entry["mean"], images.mean((0, 1, 2)) / 255, atol=1e-7)
        assert np.allclose(entry["std"], images.std((0, 1, 2)) / 255, atol=1e-7)
        assert entry["beton"]["bytes"] == (tiny_beton / f"{split}.beton").stat().st_size
    # As FFCV's own writer makes it.
    written = "3e80e4ebb7b14d7bf0bacab4046a2739dfbbefff38082d2608f2359575d11366"
    assert beton.sha256(tiny_beton / "test.beton") == written


def test_converting_twice_gives_equal_bytes_and_leaves_nothing_else(tiny_images: Splits, tmp_path: Path) -> None:
    raw, made = tmp_path / "raw", []
    photos.raw({split: (images[:, 12:18, 12:20], labels) for split, (images, labels) in tiny_images.items()}, raw)
    for _ in range(2):
        convert(raw, tmp_path / "to", 10, "zca")
        made.append({path.name: path.read_bytes() for path in (tmp_path / "to").iterdir()})
    assert made[0] == made[1]
    assert sorted(made[0]) == ["card.json", "test.beton", "train.beton"]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["raw", "to"]


def test_the_card_describes_the_jpegs(tmp_path: Path) -> None:
    folder, raw = tmp_path / "photos-jpeg", photos.store(photos.make_tree(tmp_path / "tree"), tmp_path / "raw")
    convert_jpegs(raw, folder, 4, 200, 90)
    card = beton.open_card(folder)
    assert (card["kind"], card["max_side"], card["quality"]) == ("jpeg", 200, 90)
    for split, each in (("train", 3), ("test", 2)):
        entry, of = card["splits"][split], beton.open_split(folder, split)
        index = open_index(raw, split)
        assert entry["images"] == len(of.labels) == 4 * each
        assert entry["images_per_class"] == [each] * 4
        assert entry["source_digest"] == jpeg_store.files_digest(index["label"], index["sha256"])
        assert entry["beton"]["bytes"] == of.path.stat().st_size
        assert entry["jpeg_bytes"]["total"] == of.sizes.sum()
        for name, values in (("height", of.heights), ("width", of.widths), ("jpeg_bytes", of.sizes)):
            told = entry[name]["smallest"], entry[name]["median"], entry[name]["largest"]
            assert told == (values.min(), sorted(values)[(len(values) - 1) // 2], values.max())


def test_an_image_that_cannot_be_decoded_ends_the_conversion(tmp_path: Path) -> None:
    tree = photos.make_tree(tmp_path / "tree")
    path = min((tree / "val").rglob("*.JPEG"), key=lambda path: path.name)
    path.write_bytes(photos.jpeg(photos.photo(0))[:-8000])
    raw = photos.store(tree, tmp_path / "raw")
    with pytest.raises(UserError, match=rf"test {path.name}: not a readable image") as caught:
        convert_jpegs(raw, tmp_path / "to", 4, 200, 90)
    assert "replace that image" in caught.value.remedy
    assert sorted(path.name for path in tmp_path.iterdir()) == ["raw", "tree"]


def test_cmyk_grey_and_png_are_read_as_rgb_and_exif_turns_nothing() -> None:
    image = photos.cutting(0, np.random.default_rng(1), 100)
    plain = np.asarray(image).astype(int)
    for name, content, nearest in (
        ("png", photos.jpeg(image, "PNG"), 0.0),
        ("rgba", photos.jpeg(image.convert("RGBA"), "PNG"), 0.0),
        ("rgb", photos.jpeg(image, quality=98), 5.0),
        ("cmyk", photos.jpeg(image.convert("CMYK"), quality=98), 5.0),
    ):
        pixels = decode(content)
        assert (pixels.dtype, pixels.shape) == (np.uint8, plain.shape)
        assert np.abs(pixels - plain).mean() <= nearest, name
    grey = decode(photos.jpeg(image.convert("L")))
    assert np.array_equal(grey[..., 0], grey[..., 2])
    assert np.abs(grey - plain.mean(axis=2, keepdims=True)).mean() < 20
    exif = Image.Exif()
    exif[0x0112] = 6
    assert decode(photos.jpeg(image.resize((60, 40)), exif=exif)).shape == (40, 60, 3)
