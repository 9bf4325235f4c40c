"""Archives and packages that are not what they say they are, each a real file with a checksum that was believed."""

import io
import json
import os
import pickle
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from pipeline.data import readers
from pipeline.data.readers import Splits
from pipeline.dataset_config import Dataset, SourceError
from tests.data.packed import BATCHES, members_of, npm_members, png, tar


@pytest.fixture
def tiny(tiny_dataset_entry: Callable[[str], dict[str, Any]]) -> Dataset:
    return Dataset.model_validate(tiny_dataset_entry("http://127.0.0.1/x"))


Members = dict[str, bytes]


def _with(name: str) -> Callable[[Path, Members], object]:
    return lambda path, members: tar(path, {**members, name: b"x"})


def _special(kind: bytes) -> Callable[[Path, Members], object]:
    info = tarfile.TarInfo(f"{BATCHES}/readme.html")
    info.type, info.linkname = kind, f"{BATCHES}/batches.meta"
    return lambda path, members: tar(path, members, info)


def _cut(keep: int) -> Callable[[Path, Members], object]:
    return lambda path, members: path.write_bytes(tar(path, members).read_bytes()[:keep])


def _without(name: str) -> Callable[[Path, Members], object]:
    return lambda path, members: tar(path, {key: members[key] for key in members if key != name})


def _zipped(path: Path, members: Members) -> None:
    with zipfile.ZipFile(path, "w") as packed:
        for name, content in members.items():
            packed.writestr(name, content)


ARCHIVES: dict[str, tuple[Callable[[Path, Members], object], str]] = {  # what is written, what is read
    "a member above the archive": (_with("../out"), "climbs out"),
    "a member that climbs out by a detour": (_with("a/../../out"), "climbs out"),
    "a member with an absolute name": (_with("/out"), "climbs out"),
    "a symbolic link": (_special(tarfile.SYMTYPE), "neither a file nor a folder"),
    "a hard link": (_special(tarfile.LNKTYPE), "neither a file nor a folder"),
    "a pipe": (_special(tarfile.FIFOTYPE), "neither a file nor a folder"),
    "a device": (_special(tarfile.CHRTYPE), "neither a file nor a folder"),
    "a member there twice": (lambda p, m: tar(p, m, tarfile.TarInfo(f"{BATCHES}/test_batch")), "there twice"),
    "a member that is missing": (_without(f"{BATCHES}/data_batch_2"), f"lacks {BATCHES}/data_batch_2"),
    "a batch that is a folder's name": (
        lambda p, m: tar(p, {**m, f"{BATCHES}/test_batch/x": b"x"} | {f"{BATCHES}/test_batch": b""}),
        "test_batch: no readable pickle",
    ),
    "a member nobody wants that unpacks without end": (
        lambda p, m: tar(p, {f"{BATCHES}/zeros": bytes(10**7), **m}),
        "unpacks to more than 3290816 bytes",
    ),
    "a batch that unpacks without end": (
        lambda p, m: tar(p, {**m, f"{BATCHES}/data_batch_1": bytes(10**7)}),
        "unpacks to more than 3290816 bytes",
    ),
    "an empty file": (_cut(0), "no readable tar"),
    "ten bytes of it": (_cut(10), "no readable tar"),
    "its first batches": (_cut(500_000), "no readable tar|lacks"),
    "a zip archive": (_zipped, "no readable tar"),
}


@pytest.mark.parametrize("name", ARCHIVES)
def test_an_archive_is_refused(name: str, tiny: Dataset, tiny_archive: Path, tmp_path: Path) -> None:
    write, reads = ARCHIVES[name]
    path = tmp_path / "a.tar.gz"
    write(path, members_of(tiny_archive))
    with pytest.raises(SourceError, match=rf"^(a\.tar\.gz: |test_batch: )?.*({reads})") as caught:
        readers.read_archive(path, tiny)
    assert "\n" not in str(caught.value)
    assert [entry.name for entry in tmp_path.iterdir()] == ["a.tar.gz"]


class _Harmful:
    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.path),)


def test_a_malicious_pickle_is_refused_and_does_nothing(tiny: Dataset, tiny_archive: Path, tmp_path: Path) -> None:
    harm = tmp_path / "harm"
    content = pickle.dumps({b"data": _Harmful(harm), b"labels": [0]})
    path = tar(tmp_path / "a.tar.gz", {**members_of(tiny_archive), f"{BATCHES}/data_batch_3": content})
    with pytest.raises(SourceError, match=r"data_batch_3: its pickle asks for posix\.mkdir"):
        readers.read_archive(path, tiny)
    assert not harm.exists()
    pickle.loads(content)  # the ordinary unpickler does do harm
    assert harm.exists()


ROW = np.zeros((52, 3072), np.uint8)


def _batch(data: Any, labels: Any) -> bytes:
    return pickle.dumps({b"data": data, b"labels": labels})


NO_BATCH: dict[str, tuple[bytes, str]] = {
    "a list": (pickle.dumps([1]), "no dict with data and labels"),
    "no labels": (pickle.dumps({b"data": ROW}), "no dict with data and labels"),
    "pixels as floats": (_batch(ROW.astype(np.float32), [0] * 52), "no uint8 array"),
    "images one pixel short": (_batch(ROW[:, 1:], [0] * 52), "no uint8 array"),
    "pixels as objects": (_batch(ROW.astype(object), [0] * 52), "no uint8 array"),
    "labels as floats": (_batch(ROW, [0.5] * 52), "no list of integers"),
    "labels as truth values": (_batch(ROW, [True] * 52), "no list of integers"),
    "labels beyond 64 bits": (_batch(ROW, [2**70] * 52), "no list of integers"),
    "labels as an array": (_batch(ROW, np.zeros(52, np.int64)), "no list of integers"),
    "an image too few": (_batch(ROW[1:], [0] * 51), r"train: images are uint8 \(259, 32, 32, 3\)"),
    "a label too few": (_batch(ROW, [0] * 51), r"train: labels are int64 \(259,\)"),
    "a label above the classes": (_batch(ROW, [10] * 52), r"train: labels 0\.\.10, not 0\.\.9"),
    "a label below 0": (_batch(ROW, [-1] * 52), r"train: labels -1\.\.9, not 0\.\.9"),
    "nothing": (b"", "no readable pickle"),
    "a cut pickle": (b"\x80\x02}q\x00(U", "no readable pickle"),
    "no pickle": (b"no pickle at all", "no readable pickle"),
    "a text of 4 GB announced": (b"\x80\x04\x8d\xff\xff\xff\xff\x00\x00\x00\x00.", "no readable pickle"),
}


@pytest.mark.parametrize("name", NO_BATCH)
def test_a_batch_is_refused(name: str, tiny: Dataset, tiny_archive: Path, tmp_path: Path) -> None:
    batch, reads = NO_BATCH[name]
    members = {**members_of(tiny_archive), f"{BATCHES}/data_batch_4": batch}
    with pytest.raises(SourceError, match=reads):
        readers.read_archive(tar(tmp_path / "a.tar.gz", members), tiny)


def _talkative() -> bytes:
    text = PngInfo()
    text.add_text("comment", "0" * 5_000_000, zip=True)
    buffer = io.BytesIO()
    Image.new("RGB", (1024, 104)).save(buffer, "PNG", pnginfo=text)
    return buffer.getvalue()


PACKAGES: dict[str, tuple[str, bytes, str]] = {  # member, content, what is read
    "a row too few": ("test_batch.png", png(1024, 103), "RGB 1024 x 103 pixels, not RGB 1024 x 104"),
    "no colours": ("test_batch.png", png(1024, 104, "L"), "L 1024 x 104 pixels, not RGB"),
    "transparency": ("test_batch.png", png(1024, 104, "RGBA"), "RGBA 1024 x 104 pixels, not RGB"),
    # 300 million pixels in a third of a megabyte: more than Pillow opens by default.
    "a picture that fills the memory": (
        "test_batch.png",
        png(20_000, 15_000, "1"),
        "no readable PNG: .*decompression bomb",
    ),
    "a picture that is large but not too large to open": ("test_batch.png", png(9000, 9000, "1"), "1 9000 x 9000 pix"),
    "a comment that fills the memory": ("test_batch.png", _talkative(), "no readable PNG: .*too large"),
    "a picture of another kind": ("test_batch.png", b"GIF89a", "no readable PNG"),
    "a cut picture": ("test_batch.png", png(1024, 104)[:200], "no readable PNG"),
    "labels too few": ("train_lables.json", b"[1, 2]", "2 labels, not 260"),
    "labels in an object": ("train_lables.json", b'{"a": 1}', "no list of integers"),
    "cut JSON": ("train_lables.json", b"[1,", "no readable JSON"),
    "JSON nested without end": ("train_lables.json", b"[" * 200_000, "no readable JSON"),
    "JSON in no encoding": ("train_lables.json", b"\xff\xfe\xfd", "no readable JSON"),
    "a number without end": ("train_lables.json", b"[" + b"9" * 10_000 + b"]", "no readable JSON"),
    "a label above the classes": (
        "test_lables.json",
        json.dumps([9] * 103 + [10]).encode(),
        r"test: labels 9\.\.10, not 0\.\.9",
    ),
}


@pytest.mark.parametrize("name", PACKAGES)
def test_a_package_is_refused(name: str, tiny: Dataset, tiny_images: Splits, tmp_path: Path) -> None:
    member, content, reads = PACKAGES[name]
    members = {**npm_members(tiny_images), f"package/{member}": content}
    with pytest.raises(SourceError, match=reads):
        readers.read_npm_tarball(tar(tmp_path / "a.tgz", members), tiny)
