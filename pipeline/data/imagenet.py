"""ImageNet (ILSVRC 2012) from what its user was given: the official archives, or folders unpacked from them.

    train  ILSVRC2012_img_train.tar, or train/<synset>/*.JPEG
    test   the validation images: ILSVRC2012_img_val.tar, or val/<synset>/*.JPEG, or val/*.JPEG
    labels of test images outside class folders: ILSVRC2012_devkit_t12.tar.gz

An archive is taken before a folder, since its md5 is pinned. The published files are the same bytes whatever they came
from. No member of an archive ever becomes a file by its own name.
"""

import io
import tarfile
from dataclasses import replace
from pathlib import Path

import numpy as np
from scipy.io import loadmat

from pipeline.atomic_write import new_folder, writing
from pipeline.data.digest import file_digest, require_digest
from pipeline.data.jpeg_store import ImageFile, write_split
from pipeline.data.readers import read_members
from pipeline.dataset_config import SPLITS, Dataset, SourceError, Split
from pipeline.progress import say

TRAIN, VAL, DEVKIT = "ILSVRC2012_img_train.tar", "ILSVRC2012_img_val.tar", "ILSVRC2012_devkit_t12.tar.gz"
META, TRUTH = (f"ILSVRC2012_devkit_t12/data/{name}" for name in ("meta.mat", "ILSVRC2012_validation_ground_truth.txt"))
LAYOUT = f"train/<synset>/*.JPEG and val/<synset>/*.JPEG, or {TRAIN}, {VAL} and {DEVKIT}"


def publish(folder: Path, dataset: Dataset, to: Path) -> None:
    """Publish the images of the user's `folder` in the folder `to`, as jpeg_store describes. Raises SourceError when
    something is missing or wrong."""
    md5s = dataset.sources[0].checksums
    splits: dict[Split, list[ImageFile]] = {"train": _train_files(folder, md5s), "test": _test_files(folder, md5s)}
    synsets = sorted({file.synset for file in splits["train"]})
    if len(synsets) != dataset.classes:
        raise SourceError(f"train: {len(synsets)} classes, not {dataset.classes}")
    if strange := sorted({file.synset for file in splits["test"]} - set(synsets)):
        raise SourceError(f"test: {', '.join(strange[:3])}: not a class of the training images")
    for split, files in splits.items():
        if len(files) != dataset.splits[split]:
            raise SourceError(f"{split}: {len(files)} images, not {dataset.splits[split]}")
    with writing(to), new_folder(to) as fresh:
        (fresh / "synsets.txt").write_text("".join(f"{synset}\n" for synset in synsets), encoding="utf-8")
        for split in SPLITS:
            require_digest(split, write_split(fresh, split, splits[split], synsets), dataset)


def _train_files(folder: Path, md5s: dict[str, str]) -> list[ImageFile]:
    if _pinned(archive := folder / TRAIN, md5s):
        # It has an archive a class, <synset>.tar, whose members lie in it as they are.
        return [file for inner in _tar(archive) for file in _tar(archive, inner.start, inner.name.removesuffix(".tar"))]
    if files := _unpacked(folder / "train"):
        return files
    raise SourceError(f"{folder} holds neither {TRAIN} nor train/<synset>/*.JPEG")


def _test_files(folder: Path, md5s: dict[str, str]) -> list[ImageFile]:
    archive, val, devkit = folder / VAL, folder / "val", folder / DEVKIT
    if _pinned(devkit, md5s):
        files = _tar(archive) if _pinned(archive, md5s) else _unpacked(val, "[!.]*.JPEG")
        if files:
            return _labelled(files, devkit)
    if files := _unpacked(val):
        return files
    raise SourceError(f"{folder} holds neither val/<synset>/*.JPEG nor {DEVKIT} with {VAL} or val/*.JPEG")


def _labelled(files: list[ImageFile], devkit: Path) -> list[ImageFile]:
    """The validation images with their synsets: line n of the devkit's ground truth is for image n, by numbers of
    synsets that meta.mat tells."""
    members = read_members(devkit)
    synsets = np.atleast_1d(loadmat(io.BytesIO(members[META]), squeeze_me=True)["synsets"])  # type: ignore[arg-type]
    names = {int(entry["ILSVRC2012_ID"]): str(entry["WNID"]) for entry in synsets}
    lines = enumerate(members[TRUTH].split(), 1)
    truth = {f"ILSVRC2012_val_{number:08d}.JPEG": names[int(line)] for number, line in lines}
    return [replace(file, synset=truth.get(file.name, file.name)) for file in files]


def _unpacked(folder: Path, pattern: str = "[!.]*/[!.]*") -> list[ImageFile]:
    """<synset>/*.JPEG, or what the pattern says."""
    return [ImageFile(path.parent.name, path.name, path, 0, path.stat().st_size) for path in folder.glob(pattern)]


def _tar(archive: Path, start: int = 0, synset: str = "") -> list[ImageFile]:
    """The files of the uncompressed archive that starts at byte `start`, with their places in `archive`."""
    with archive.open("rb") as file:
        file.seek(start)
        with tarfile.open(fileobj=file, mode="r:") as tar:
            return [ImageFile(synset, member.name, archive, member.offset_data, member.size) for member in tar]


def _pinned(archive: Path, md5s: dict[str, str]) -> bool:
    """Whether an archive is here. Raises SourceError where its bytes are not the pinned ones, or none are pinned."""
    if not archive.is_file():
        return False
    if archive.name not in md5s:
        raise SourceError(f"{archive.name}: params.yaml pins no md5 for it; give its files unpacked")
    say(f"{archive.name}: checking the md5 of {archive.stat().st_size / 1e9:.1f} GB")
    if (found := file_digest(archive, "md5")) != md5s[archive.name]:
        raise SourceError(f"{archive.name}: wrong bytes: {found}, not {md5s[archive.name]}")
    return True
