"""A small ImageNet of real JPEG photographs, those that scikit-learn and matplotlib ship, cut to many sizes;
archives and packages of CIFAR as published; and a plain flip and crop."""

import hashlib
import io
import json
import pickle
import tarfile
from collections.abc import Sequence
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from scipy.io import savemat

from pipeline.data import beton
from pipeline.data.digest import Labels
from pipeline.data.imagenet import DEVKIT, META, TRAIN, TRUTH, VAL, publish
from pipeline.data.readers import CIFAR10, Splits, read_members
from pipeline.dataset_config import Dataset

# Found, not imported, which takes seconds.
SKLEARN, MATPLOTLIB = (Path(str(find_spec(name).origin)).parent for name in ("sklearn", "matplotlib"))
FILES = (
    SKLEARN / "datasets/images/china.jpg",
    SKLEARN / "datasets/images/flower.jpg",
    MATPLOTLIB / "mpl-data/sample_data/grace_hopper.jpg",
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
    """train/<synset>/*.JPEG and val/<synset>/*.JPEG below `root`: each class cut from one place of one photograph. As
    in ImageNet, one image is CMYK, one grey, and one a PNG by the name of a JPEG."""
    random = np.random.default_rng(0)
    truth = random.permutation(np.repeat(np.arange(classes), test))
    # Names are not in the order of their numbers.
    paths = [f"train/{synset(n)}/{synset(n)}_{k}.JPEG" for n in range(classes) for k in random.permutation(999)[:train]]
    paths += [f"val/{synset(n)}/ILSVRC2012_val_{k:08d}.JPEG" for k, n in enumerate(truth, 1)]
    for path, label in zip(paths, [*np.repeat(np.arange(classes), train), *truth], strict=True):
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_bytes(jpeg(cutting(label, random, longest)))
    cmyk, grey, png = sorted((root / "train").rglob("*.JPEG"))[:3]
    cmyk.write_bytes(jpeg(cutting(0, random, longest).convert("CMYK")))
    grey.write_bytes(jpeg(cutting(0, random, longest).convert("L")))
    png.write_bytes(jpeg(cutting(0, random, longest), "PNG"))
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
    """The three official archives of a tree, in the folder `to`. Returns their md5. Members stand in no order, and the
    devkit numbers the synsets against theirs, after a class that has children."""
    to.mkdir(exist_ok=True)
    classes = sorted((root / "train").iterdir(), reverse=True)
    inner = {f"{each.name}.tar": tar({path.name: path.read_bytes() for path in each.iterdir()}) for each in classes}
    images = sorted((root / "val").rglob("*.JPEG"), key=lambda path: path.name)
    synsets = [path.name for path in classes]
    kind = [("ILSVRC2012_ID", "O"), ("WNID", "O"), ("words", "O"), ("gloss", "O"), ("num_children", "O")]
    rows = [(n + 1, name, "photograph", "a photograph", 0) for n, name in enumerate(synsets)]
    rows.append((len(rows) + 1, "n00001740", "entity", "what is", len(rows)))
    meta = io.BytesIO()
    savemat(meta, {"synsets": np.array(rows, kind)[:, None]}, do_compression=True)
    truth = "".join(f"{synsets.index(path.parent.name) + 1}\n" for path in images).encode()
    contents = {
        TRAIN: tar(inner),
        VAL: tar({path.name: path.read_bytes() for path in reversed(images)}),
        DEVKIT: tar({META: meta.getvalue(), TRUTH: truth}, "w:gz"),
    }
    for name, content in contents.items():
        (to / name).write_bytes(content)
    return {name: hashlib.md5(content).hexdigest() for name, content in contents.items()}


def tar(members: dict[str, bytes], mode: Any = "w") -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode=mode) as packed:
        for name, content in members.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            packed.addfile(member, io.BytesIO(content))
    return buffer.getvalue()


def store(tree: Path, to: Path) -> Path:
    """The raw form of a tree, as the download stage leaves it, in the folder `to`."""
    publish(tree, Dataset.model_validate(entry_of(tree)), to)
    return to


def make_beton(to: Path, split: str, images: Sequence[Image.Image] | np.ndarray, labels: Labels) -> Path:
    """The folder `to` with a split's .beton and a card: of photographs JPEGs, of an array whitened images."""
    to.mkdir()
    path = to / f"{split}.beton"
    kind, contents = ("zca", images) if isinstance(images, np.ndarray) else ("jpeg", map(jpeg, images))
    beton.write(path, kind, np.array([np.shape(image)[1::-1] for image in images]), labels, contents)
    entry = {"beton": {"sha256": beton.sha256(path)}}
    (to / "card.json").write_text(json.dumps({"name": to.name, "kind": kind, "splits": {split: entry}}))
    return to


def packed(path: Path, members: dict[str, bytes]) -> Path:
    """An archive at `path`, as CIFAR's are."""
    path.write_bytes(tar(members, "w:gz"))
    return path


def source(server: Any, path: Path) -> dict[str, Any]:
    """The entry in params.yaml of a file that `server` has from now on."""
    md5 = hashlib.md5(path.read_bytes()).hexdigest()
    return {"archive": server.put(path), "md5": md5, "bytes": path.stat().st_size}


def other_content(archive: Path, to: Path) -> Path:
    """The same archive, but for one training image, whose bytes stand backwards."""
    members, batch = read_members(archive), "cifar-10-batches-py/data_batch_1"
    image = pickle.loads(members[batch], encoding="bytes")[b"data"][0].tobytes()
    assert members[batch].count(image) == 1
    return packed(to, {**members, batch: members[batch].replace(image, image[::-1])})


def npm_members(splits: Splits) -> dict[str, bytes]:
    members = {}
    for split, parts in CIFAR10.items():
        images, labels = splits[split]
        for part, rows in zip(parts, np.split(images, len(parts)), strict=True):
            members[f"package/{part}.png"] = jpeg(Image.fromarray(rows.reshape(len(rows), 1024, 3)), "PNG")
        members[f"package/{split}_lables.json"] = json.dumps(labels.tolist()).encode()
    return members


def svhn(splits: Splits, folder: Path) -> list[Path]:
    """SVHN's three files of these images: X [32,32,3,N], y [N,1] with 10 for the digit 0."""
    (images, labels), test = splits["train"], splits["test"]
    parts = {"train": (images[:100], labels[:100]), "extra": (images[100:], labels[100:]), "test": test}
    for name, (X, y) in parts.items():
        content = {"X": X.transpose(1, 2, 3, 0), "y": np.where(y == 0, 10, y).astype(np.uint8)[:, None]}
        savemat(folder / f"{name}_32x32.mat", content, do_compression=True)
    return [folder / f"{name}_32x32.mat" for name in parts]


def raw(splits: Splits, to: Path) -> Path:
    """Arrays as the download stage leaves them, in the folder `to`."""
    to.mkdir()
    for split, (images, labels) in splits.items():
        np.save(to / f"{split}_images.npy", images)
        np.save(to / f"{split}_labels.npy", labels)
    return to


def moved(images: Any, mirrored: Any, rows: Any, columns: Any) -> Any:
    """Each of [B,H,W,3] mirrored, padded by reflection of 4 pixels, and cut out at (row, column), one by one."""
    height, width = images.shape[1:3]
    made = []
    for image, mirror, row, column in zip(images, mirrored, rows, columns, strict=True):
        padded = np.pad(image[:, ::-1] if mirror else image, ((4, 4), (4, 4), (0, 0)), mode="reflect")
        made.append(padded[row : row + height, column : column + width])
    return np.stack(made)
