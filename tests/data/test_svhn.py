"""SVHN and CIFAR-100 by the road of CIFAR-10: real MATLAB files and archives, from a real server or a folder."""

from __future__ import annotations

import hashlib
import io
import pickle
import shutil
import subprocess
import sys
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from scipy.io import loadmat, savemat

from pipeline.data import svhn
from pipeline.data.dataset_download import acquire, load
from pipeline.data.digest import split_digest, to_records
from pipeline.data.fetch import Patience
from pipeline.data.readers import Splits
from pipeline.dataset_config import DATA_DIR, Dataset, SourceError
from pipeline.errors import UserError

if TYPE_CHECKING:
    from tests.conftest import ArchiveServer

QUICK = Patience(connect_s=5, read_s=20, retries=1, backoff_s=0.02)
TO = Path("data/raw/tiny")
NAMES = ("train_32x32.mat", "extra_32x32.mat", "test_32x32.mat")


def mat(path: Path, images: np.ndarray, labels: np.ndarray, **more: Any) -> Path:
    """A file as published: X [32,32,3,N], y [N,1] with 10 for the digit 0, compressed."""
    y = np.where(labels == 0, 10, labels).astype(np.uint8)[:, None]
    savemat(path, {"X": images.transpose(1, 2, 3, 0), "y": y, **more}, do_compression=True)
    return path


@pytest.fixture
def mats(tiny_images: Splits, tmp_path: Path) -> Path:
    """A folder with the three files; train has 100 of the 260 training images, extra the rest."""
    folder = tmp_path / "mats"
    folder.mkdir()
    (images, labels), (test_images, test_labels) = tiny_images["train"], tiny_images["test"]
    mat(folder / NAMES[0], images[:100], labels[:100])
    mat(folder / NAMES[1], images[100:], labels[100:])
    mat(folder / NAMES[2], test_images, test_labels)
    return folder


@pytest.fixture
def entry(tiny_dataset_entry: Callable[[str], dict[str, Any]], mats: Path, archive_server: ArchiveServer) -> dict:
    urls = [archive_server.put(mats / name) for name in NAMES]
    files = [file(url, mats / name) for url, name in zip(urls, NAMES, strict=True)]
    made = tiny_dataset_entry("http://127.0.0.1/x")
    return {**made, "reader": "svhn-mat", "record_digests": None, "sources": [{"files": files}]}


def file(url: str, path: Path) -> dict[str, Any]:
    content = path.read_bytes()
    return {"archive": url, "md5": hashlib.md5(content).hexdigest(), "bytes": len(content)}


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.delenv(DATA_DIR, raising=False)
    folder = tmp_path / "here"
    folder.mkdir()
    monkeypatch.chdir(folder)
    return folder


def _acquire(entry: dict[str, Any], **changes: Any) -> None:
    acquire("tiny", Dataset.model_validate({**entry, **changes}), TO, patience=QUICK)


def _require(splits: Splits) -> None:
    for split, (images, labels) in splits.items():
        found = load(TO, split)
        assert np.array_equal(found[0], images)
        assert np.array_equal(found[1], labels)


def test_svhn_from_three_files_is_train_then_extra_with_0_for_10(here: Path, entry: dict, tiny_images: Splits) -> None:
    assert 0 in tiny_images["train"][1][:100]
    _acquire(entry)
    _require(tiny_images)
    assert not list(Path("scratch").rglob("*.mat"))


def test_an_image_is_not_turned_on_its_side(mats: Path, entry: dict) -> None:
    """Against the published layout itself: X[row, column, channel, number]."""
    images, _ = svhn.read_mats([mats / name for name in NAMES], Dataset.model_validate(entry))["test"]
    X = loadmat(mats / NAMES[2])["X"]
    assert images.flags.c_contiguous
    for number, row, column, channel in [(0, 0, 31, 0), (50, 7, 20, 1), (103, 31, 0, 2)]:
        assert images[number, row, column, channel] == X[row, column, channel, number]
    assert not np.array_equal(images, images.transpose(0, 2, 1, 3))


def test_svhn_from_a_folder_reaches_no_server(
    here: Path,
    entry: dict,
    mats: Path,
    tiny_images: Splits,
    archive_server: ArchiveServer,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv(DATA_DIR, str(mats))
    _acquire(entry, sources=[{"folder": True}, *entry["sources"]])
    _require(tiny_images)
    assert archive_server.requests == []
    assert sorted(path.name for path in mats.iterdir()) == sorted(NAMES)


@pytest.mark.parametrize(
    ("damage", "why"), [("missing", "lacks extra_32x32.mat"), ("changed", "extra_32x32.mat: wrong bytes")]
)
def test_a_folder_with_a_bad_file_is_refused_by_its_name(
    here: Path, entry: dict, mats: Path, monkeypatch: pytest.MonkeyPatch, damage: str, why: str
) -> None:
    if damage == "missing":
        (mats / NAMES[1]).unlink()
    else:
        content = bytearray((mats / NAMES[1]).read_bytes())
        content[1000] ^= 1
        (mats / NAMES[1]).write_bytes(content)
    monkeypatch.setenv(DATA_DIR, str(mats))
    absent = {"files": [{**f, "archive": f"{f['archive'].rsplit('/', 1)[0]}/no/{n}"} for f, n in _files(entry)]}
    with pytest.raises(UserError, match=why) as caught:
        _acquire(entry, sources=[{"folder": True}, absent])
    assert "train_32x32.mat with extra_32x32.mat with test_32x32.mat" in caught.value.remedy
    assert not TO.exists()


def _files(entry: dict[str, Any]) -> list[tuple[dict[str, Any], str]]:
    return list(zip(entry["sources"][0]["files"], NAMES, strict=True))


def test_what_came_and_was_right_is_not_fetched_again(here: Path, entry: dict, archive_server: ArchiveServer) -> None:
    last = entry["sources"][0]["files"][2]["archive"]
    archive_server.plan(last, archive_server.status(404))
    with pytest.raises(UserError, match=r"test_32x32\.mat: the server answers 404"):
        _acquire(entry)
    assert sorted(path.name for path in Path("scratch/downloads/tiny").iterdir()) == sorted(NAMES[:2])
    _acquire(entry)
    assert [request.path for request in archive_server.requests].count("/train_32x32.mat") == 1
    assert not Path("scratch/downloads/tiny").exists()


def test_content_that_is_not_the_pinned_one_is_refused_and_dropped(here: Path, entry: dict) -> None:
    with pytest.raises(UserError, match="wrong content: test digest"):
        _acquire(entry, digests={**entry["digests"], "test": "0" * 64})
    assert not list(Path("scratch").rglob("*.mat"))
    assert not TO.exists()


def test_an_unpinned_digest_is_printed(here: Path, entry: dict, capfd: pytest.CaptureFixture[str]) -> None:
    _acquire(entry, digests=None)
    said = capfd.readouterr().err
    for split in ("train", "test"):
        assert f"{split}: no digest is pinned; that of this content is {entry['digests'][split]}" in said


def test_bytes_of_the_wrong_md5_are_never_parsed(here: Path, entry: dict, archive_server: ArchiveServer) -> None:
    (archive_server.folder / NAMES[0]).write_bytes(b"x" * entry["sources"][0]["files"][0]["bytes"])
    with pytest.raises(UserError, match=r"train_32x32\.mat: wrong bytes: md5"):
        _acquire(entry)


BAD = {  # name: (images, labels, other variables, what is said)
    "float": (np.zeros((104, 32, 32, 3), np.float32), np.ones(104), {}, "X is single"),
    "small": (np.zeros((104, 28, 28, 3), np.uint8), np.ones(104), {}, r"X is uint8 \(28, 28, 3, 104\)"),
    "few": (np.zeros((103, 32, 32, 3), np.uint8), np.ones(103), {}, "test: 103 images, not 104"),
    "labels": (np.zeros((104, 32, 32, 3), np.uint8), np.ones(103), {}, r"y is \(\(103, 1\), 'uint8'\)"),
    "eleven": (np.zeros((104, 32, 32, 3), np.uint8), np.full(104, 11), {}, "labels 11..11, not 1..10"),
    "zero": (np.zeros((104, 32, 32, 3), np.uint8), np.ones(104), {"y": np.zeros((104, 1), np.uint8)}, "labels 0..0"),
    "cell": (np.zeros((104, 32, 32, 3), np.uint8), np.ones(104), {"X": np.array([1, "a"], object)}, "X is cell"),
}  # fmt: skip


@pytest.mark.parametrize("case", BAD)
def test_a_file_of_other_content_is_refused(mats: Path, entry: dict, case: str) -> None:
    images, labels, more, why = BAD[case]
    mat(mats / NAMES[2], images, labels, **more)
    with pytest.raises(SourceError, match=rf"^(test_32x32\.mat: )?{why}"):
        svhn.read_mats([mats / name for name in NAMES], Dataset.model_validate(entry))


def test_a_missing_file_is_named(mats: Path, entry: dict) -> None:
    with pytest.raises(SourceError, match=r"lacks extra_32x32\.mat"):
        svhn.read_mats([mats / NAMES[0], mats / NAMES[2]], Dataset.model_validate(entry))


CORRUPT = """
import sys
from pathlib import Path
import numpy as np
from pipeline.data import svhn
from pipeline.dataset_config import Dataset, SourceError
folder, dataset = Path(sys.argv[1]), Dataset.model_validate_json(sys.argv[2])
path = folder / "test_32x32.mat"
good, random, refused = path.read_bytes(), np.random.default_rng(0), 0
files = [folder / n for names in svhn.PARTS.values() for n in names]
for case in range(400):
    bad = bytearray(good)
    if case % 4 == 0:
        bad = bad[: random.integers(len(bad))]
    else:
        where = random.integers(0, 300 if case % 2 else len(bad), 1 + case % 3)
        for at in where:
            bad[at] = random.integers(256)
    path.write_bytes(bad)
    try:
        svhn.read_mats(files, dataset)
    except SourceError as error:
        assert str(error) and "\\n" not in str(error), error
        refused += 1
print(refused)
"""


def test_no_damaged_file_raises_anything_but_a_refusal(mats: Path, entry: dict) -> None:
    """In a process of its own, which must not crash either. A changed byte of the header's free text is no damage."""
    arguments = [sys.executable, "-c", CORRUPT, str(mats), Dataset.model_validate(entry).model_dump_json()]
    done = subprocess.run(arguments, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr[-2000:]
    assert int(done.stdout) > 250


def test_cifar100_from_its_archive(
    here: Path,
    tiny_dataset_entry: Callable[[str], dict[str, Any]],
    tiny_images: Splits,
    archive_server: ArchiveServer,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Two pickles in cifar-100-python/, fine labels 0..99 beside coarse ones."""
    splits: Splits = {split: (images, labels * 11 % 100) for split, (images, labels) in tiny_images.items()}
    packed = here / "cifar-100-python.tar.gz"
    with tarfile.open(packed, "w:gz") as tar:
        for split, (images, labels) in splits.items():
            pixels = to_records(images, labels)[:, 1:]
            batch = {b"data": pixels, b"fine_labels": labels.tolist(), b"coarse_labels": [19] * len(labels)}
            info = tarfile.TarInfo(f"cifar-100-python/{split}")
            content = pickle.dumps(batch)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    entry = {
        **tiny_dataset_entry("http://127.0.0.1/x"),
        "reader": "cifar100-python",
        "classes": 100,
        "record_digests": None,
        "digests": {split: split_digest(*content) for split, content in splits.items()},
        "sources": [file(archive_server.put(packed), packed)],
    }
    _acquire(entry)
    _require(splits)
    shutil.rmtree(TO)
    monkeypatch.setenv(DATA_DIR, str(here))
    _acquire(entry, sources=[{"folder": True}, *entry["sources"]])
    _require(splits)
    assert len(archive_server.requests) == 1
