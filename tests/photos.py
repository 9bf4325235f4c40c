"""A small ImageNet of real JPEG photographs: those that scikit-learn and matplotlib ship, cut to many sizes."""

import hashlib
import io
import json
import tarfile
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
import sklearn
from PIL import Image
from scipy.io import savemat

from pipeline.data import beton
from pipeline.data.digest import Labels
from pipeline.data.imagenet import DEVKIT, META, TRAIN, TRUTH, VAL, find
from pipeline.data.jpeg_store import write_split
from pipeline.dataset_config import SPLITS, Dataset

FILES = (
    Path(sklearn.__file__).parent / "datasets/images/china.jpg",
    Path(sklearn.__file__).parent / "datasets/images/flower.jpg",
    Path(matplotlib.get_data_path()) / "sample_data/grace_hopper.jpg",
)


@cache
def photo(n: int) -> Image.Image:
    with Image.open(FILES[n]) as image:
        return image.convert("RGB")


def jpeg(image: Image.Image, kind: str = "JPEG", **options: Any) -> bytes:
    """The bytes of a file, here too by default as a camera would write it."""
    buffer = io.BytesIO()
    image.save(buffer, kind, **{"quality": 85, **options})
    return buffer.getvalue()


def synset(label: int) -> str:
    return f"n{1440764 + 7919 * label:08d}"


def make_tree(root: Path, classes: int = 4, train: int = 3, test: int = 2, longest: int = 260) -> Path:
    """train/<synset>/*.JPEG and val/<synset>/*.JPEG below `root`: each class cut from one place of one photograph.

    As in ImageNet, one image is CMYK, one grey, and one a PNG by the name of a JPEG.
    """
    random = np.random.default_rng(0)
    truth = random.permutation(np.repeat(np.arange(classes), test))
    names = [f"ILSVRC2012_val_{number + 1:08d}.JPEG" for number in range(len(truth))]
    for label in range(classes):
        folder = root / "train" / synset(label)
        folder.mkdir(parents=True)
        (root / "val" / synset(label)).mkdir(parents=True)
        for number in random.permutation(1000)[:train]:  # names are not in the order of their numbers
            (folder / f"{synset(label)}_{number}.JPEG").write_bytes(jpeg(cutting(label, random, longest)))
    for label, name in zip(truth, names, strict=True):
        (root / "val" / synset(label) / name).write_bytes(jpeg(cutting(label, random, longest)))
    odd = sorted((root / "train").rglob("*.JPEG"))[:3]
    for path, content in zip(
        odd,
        (
            jpeg(cutting(0, random, longest).convert("CMYK")),
            jpeg(cutting(0, random, longest).convert("L")),
            jpeg(cutting(0, random, longest), "PNG"),
        ),
        strict=True,
    ):
        path.write_bytes(content)
    return root


def cutting(label: int, random: np.random.Generator, longest: int) -> Image.Image:
    image = photo(label % len(FILES))
    width, height = (int(side) for side in random.integers(max(24, longest // 3), longest + 1, 2))
    left, top = int(random.integers(image.width - width)), int(random.integers(image.height - height))
    return image.crop((left, top, left + width, top + height))


def entry_of(root: Path, **changes: Any) -> dict[str, Any]:
    """The params.yaml entry of a tree."""
    splits = {name: sorted((root / folder).rglob("*.JPEG")) for name, folder in (("train", "train"), ("test", "val"))}
    return {
        "title": "a few photographs in ImageNet's layout",
        "reader": "imagenet-folder",
        "classes": len({path.parent for path in splits["train"]}),
        "shape": None,
        "splits": {name: len(paths) for name, paths in splits.items()},
        "sources": [{"folder": True}],
        "digests": None,
        "record_digests": None,
        "disk_bytes": sum(path.stat().st_size for paths in splits.values() for path in paths),
        "homepage": "https://www.image-net.org/challenges/LSVRC/2012/",
        "licence": "that of scikit-learn and matplotlib",
        "citation": "none",
        **changes,
    }


def pack(root: Path, to: Path) -> dict[str, str]:
    """The three official archives of a tree, in the folder `to`. Returns their md5.

    Members stand in no order, and the devkit numbers the synsets against theirs, after a class that has children.
    """
    to.mkdir(exist_ok=True)
    with tarfile.open(to / TRAIN, "w") as outer:
        for folder in sorted((root / "train").iterdir(), reverse=True):
            inner = tar_bytes({path.name: path.read_bytes() for path in sorted(folder.iterdir(), reverse=True)})
            add(outer, f"{folder.name}.tar", inner)
    images = sorted((root / "val").rglob("*.JPEG"), key=lambda path: path.name, reverse=True)
    (to / VAL).write_bytes(tar_bytes({path.name: path.read_bytes() for path in images}))
    (to / DEVKIT).write_bytes(tar_bytes(devkit(root), "w:gz"))
    return {name: md5(to / name) for name in (TRAIN, VAL, DEVKIT)}


def devkit(root: Path) -> dict[str, bytes]:
    """The devkit's two files that tell the labels of the validation images."""
    synsets = sorted((path.name for path in (root / "train").iterdir()), reverse=True)
    kind = [("ILSVRC2012_ID", "O"), ("WNID", "O"), ("words", "O"), ("gloss", "O"), ("num_children", "O")]
    rows = [(n + 1, name, "photograph", "a photograph", 0) for n, name in enumerate(synsets)]
    rows.append((len(rows) + 1, "n00001740", "entity", "what is", len(rows)))
    buffer = io.BytesIO()
    savemat(buffer, {"synsets": np.array(rows, kind)[:, None]}, do_compression=True)
    images = sorted((root / "val").rglob("*.JPEG"), key=lambda path: path.name)
    return {
        META: buffer.getvalue(),
        TRUTH: "".join(f"{synsets.index(path.parent.name) + 1}\n" for path in images).encode(),
    }


def tar_bytes(members: dict[str, bytes], mode: Any = "w") -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode=mode) as tar:
        for name, content in members.items():
            add(tar, name, content)
    return buffer.getvalue()


def add(tar: tarfile.TarFile, name: str, content: bytes, **about: Any) -> None:
    member = tarfile.TarInfo(name)
    member.size = len(content)
    for field, value in about.items():
        setattr(member, field, value)
    tar.addfile(member, io.BytesIO(content))


def md5(path: Path) -> str:
    return hashlib.md5(path.read_bytes()).hexdigest()


def store(tree: Path, to: Path) -> Path:
    """The raw form of a tree, as the download stage leaves it, in the folder `to`."""
    splits, synsets = find(tree, Dataset.model_validate(entry_of(tree)))
    to.mkdir(parents=True)
    for split in SPLITS:
        write_split(to, split, splits[split], synsets)
    return to


def make_beton(to: Path, split: str, images: Sequence[Image.Image], labels: Labels) -> Path:
    """The folder `to` with a split's .beton of JPEGs and a card."""
    to.mkdir()
    path = to / f"{split}.beton"
    beton.write(path, "jpeg", np.array([image.size for image in images]), labels, map(jpeg, images))
    entry = {"beton": {"sha256": beton.sha256(path)}}
    (to / "card.json").write_text(json.dumps({"name": to.name, "kind": "jpeg", "splits": {split: entry}}))
    return to
