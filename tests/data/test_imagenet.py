"""ImageNet from folders and archives of a user's, in all layouts: one and the same published form, or a refusal."""

from __future__ import annotations

import csv
import hashlib
import io
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import photos
import pytest
from PIL import Image

from pipeline.data import jpeg_store
from pipeline.data.dataset_download import acquire
from pipeline.data.imagenet import DEVKIT, TRAIN, VAL
from pipeline.dataset_config import DATA_DIR, SPLITS, Dataset
from pipeline.errors import UserError

TO = Path("data/raw/photos")


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Four classes of three training and two validation images, not to be changed."""
    return photos.make_tree(tmp_path_factory.mktemp("tree"))


@pytest.fixture(scope="module")
def tars(tree: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, str]]:
    """The same as archives, not to be changed, and their md5."""
    folder = tmp_path_factory.mktemp("tars")
    return folder, photos.pack(tree, folder)


@pytest.fixture
def get(tree: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., dict[str, bytes]]:
    """Acquire from a folder; the published files."""
    monkeypatch.chdir(tmp_path)

    def acquire_from(folder: Path, md5: dict[str, str] | None = None, **changes: Any) -> dict[str, bytes]:
        monkeypatch.setenv(DATA_DIR, str(folder))
        entry = photos.entry_of(tree, sources=[{"folder": True, "md5": md5}], **changes)
        acquire("photos", Dataset.model_validate(entry), TO)
        return {path.name: path.read_bytes() for path in TO.iterdir()}

    return acquire_from


def test_every_layout_gives_the_same_bytes(
    tree: Path, tars: tuple[Path, dict[str, str]], get: Any, tmp_path: Path
) -> None:
    folder, md5 = tars
    with pytest.raises(UserError, match="the variable is not set") as caught:
        get("")
    assert f"set {DATA_DIR} to a folder with train/<synset>/*.JPEG" in caught.value.remedy
    expected = get(tree)
    files = {f"{split}_{what}" for split in SPLITS for what in ("images.bin", "index.csv")}
    assert set(expected) == {"synsets.txt", *files}
    assert get(folder, md5) == expected
    for name in (TRAIN, VAL, DEVKIT):
        with pytest.raises(UserError, match=f"{name}: wrong bytes: {md5[name]}, not 0000"):
            get(folder, {**md5, name: "0" * 32})
        with pytest.raises(UserError, match=f"{name}: params.yaml pins no md5"):
            get(folder, {other: value for other, value in md5.items() if other != name})
    unlabelled = tmp_path / "unlabelled"
    shutil.copytree(tree / "train", unlabelled / "train")
    (unlabelled / "val").mkdir()
    for path in (tree / "val").rglob("*.JPEG"):
        shutil.copy(path, unlabelled / "val")
    with pytest.raises(UserError, match=f"neither val/<synset>.* nor {DEVKIT} with {VAL} or val/"):
        get(unlabelled)
    shutil.copy(folder / DEVKIT, unlabelled)
    assert get(unlabelled, md5) == expected
    image = first(unlabelled, "val")
    image.rename(image.with_name("ILSVRC2012_val_00000009.JPEG"))
    with pytest.raises(UserError, match=r"test: ILSVRC2012_val_00000009\.JPEG: not a class"):
        get(unlabelled, md5)
    # An archive for one split, folders for the other, and an archive that is not needed where class folders label.
    mixed = tmp_path / "mixed"
    shutil.copytree(tree / "val", mixed / "val")
    shutil.copy(folder / TRAIN, mixed)
    shutil.copy(folder / VAL, mixed)
    for strange in (mixed / "val/.DS_Store", mixed / "val/list.txt", first(mixed, "val").parent / "._a.JPEG"):
        strange.write_text("x")
    assert get(mixed, md5) == expected
    assert [path.name for path in TO.parent.iterdir()] == [TO.name]


def test_what_is_published_are_the_files_in_the_order_of_synset_and_name_and_their_digest_is_held_against_a_pinned_one(
    tree: Path, get: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    published = get(tree)
    pinning = ": no digest is pinned; that of this content is "
    told = dict(line.split(pinning) for line in capsys.readouterr().err.splitlines() if pinning in line)
    synsets = sorted(path.name for path in (tree / "train").iterdir())
    assert published["synsets.txt"].decode().split() == synsets
    for split, folder in (("train", "train"), ("test", "val")):
        paths = sorted((tree / folder).rglob("*.JPEG"), key=lambda path: (path.parent.name, path.name))
        contents = [path.read_bytes() for path in paths]
        assert published[f"{split}_images.bin"] == b"".join(contents)
        rows = list(csv.DictReader(io.StringIO(published[f"{split}_index.csv"].decode())))
        index = jpeg_store.open_index(TO, split)
        assert list(jpeg_store.contents(TO, split, index["bytes"])) == contents
        for path, content, row in zip(paths, contents, rows, strict=True):
            with Image.open(path) as image:
                width, height = image.size
                pixels = np.asarray(image.convert("RGB"))
            digest, label = hashlib.sha256(content).hexdigest(), synsets.index(path.parent.name)
            assert list(row) == ["name", "label", "width", "height", "bytes", "sha256"]
            assert list(row.values()) == [path.name, *map(str, (label, width, height, len(content))), digest]
            assert np.array_equal(jpeg_store.decode(content), pixels)
        sha = hashlib.sha256(json.dumps({"files": len(index)}, separators=(",", ":")).encode() + b"\n")
        sha.update(index["label"].to_numpy("<i8").tobytes())
        for content in contents:
            sha.update(hashlib.sha256(content).digest())
        assert told[split] == sha.hexdigest()
    get(tree, digests=told)
    assert pinning not in capsys.readouterr().err
    shutil.rmtree(TO)
    with pytest.raises(UserError, match=f"wrong content: test digest {told['test']}, not 0000"):
        get(tree, digests={**told, "test": "0" * 64})
    assert not TO.exists()


def first(root: Path, split: str = "train") -> Path:
    return min((root / split).rglob("*.JPEG"), key=lambda path: path.name)


DAMAGES: dict[str, tuple[Callable[[Path], Any], str]] = {
    "no train": (lambda root: shutil.rmtree(root / "train"), f"holds neither {TRAIN} nor train/"),
    "image missing": (lambda root: first(root).unlink(), "train: 11 images, not 12"),
    "class missing": (lambda root: shutil.rmtree(first(root).parent), "train: 3 classes, not 4"),
    "class of test unknown": (
        lambda root: first(root, "val").parent.rename(root / "val/n00000001"),
        "test: n00000001: not a class of the training images",
    ),
    "text for an image": (lambda root: first(root).write_text("<html>"), r"n\d+_\d+\.JPEG: not a readable image"),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_folder_that_is_not_the_dataset_is_refused_and_leaves_nothing(
    damage: str, tree: Path, get: Any, tmp_path: Path
) -> None:
    root = tmp_path / "damaged"
    shutil.copytree(tree, root)
    spoil, said = DAMAGES[damage]
    spoil(root)
    with pytest.raises(UserError, match=said) as caught:
        get(root)
    assert "\n" not in caught.value.what
    assert not list(TO.parent.glob("*"))
