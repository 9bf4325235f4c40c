"""pipeline.data.dataset_download: each source gives the same files; nothing wrong or half-written is ever published."""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import photos
import pytest

from pipeline.data import fetch
from pipeline.data.conversion import load
from pipeline.data.dataset_download import acquire
from pipeline.data.fetch import checksum
from pipeline.data.readers import Splits
from pipeline.dataset_config import DATA_DIR, SPLITS, Dataset
from pipeline.errors import UserError

if TYPE_CHECKING:
    from tests.conftest import ArchiveServer

TO = Path("data/raw/cifar10-tiny")
Entry = dict[str, Any]


@pytest.fixture
def entry(tiny_dataset_entry: Callable[[str], Entry], archive_server: ArchiveServer, tiny_archive: Path) -> Entry:
    return tiny_dataset_entry(archive_server.put(tiny_archive))


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty working directory, no folder named, and an npm that reaches no registry."""
    monkeypatch.delenv(DATA_DIR, raising=False)
    monkeypatch.setattr(fetch, "BACKOFF_S", 0.02)
    monkeypatch.setenv("npm_config_cache", str(tmp_path / "npm-cache"))
    monkeypatch.setenv("npm_config_registry", "http://127.0.0.1:1/")
    folder = tmp_path / "here"
    folder.mkdir()
    monkeypatch.chdir(folder)
    return folder


def _acquire(entry: Entry, **changes: Any) -> None:
    acquire("cifar10-tiny", Dataset.model_validate({**entry, **changes}), TO)


def _files(folder: Path) -> dict[str, str]:
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in folder.iterdir()}


def _left() -> set[str]:
    """Names of what lies about beside the published folder."""
    roots = [path for path in (Path("scratch"), Path("data")) if path.exists()]
    paths = {path for root in roots for path in root.rglob("*") if path.is_file()}
    return {path.name for path in paths if path.parent != TO}


def test_every_source_gives_the_same_files(
    here: Path,
    entry: Entry,
    tiny_images: Splits,
    tiny_archive: Path,
    archive_server: ArchiveServer,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    _acquire(entry)
    wanted = _files(TO)
    assert sorted(wanted) == ["test_images.npy", "test_labels.npy", "train_images.npy", "train_labels.npy"]
    assert _left() == set()
    for split in SPLITS:
        np.testing.assert_array_equal(load(TO, split)[0], tiny_images[split][0])
        np.testing.assert_array_equal(load(TO, split)[1], tiny_images[split][1])

    tarball = photos.packed(here / "tiny-1.0.0.tgz", photos.npm_members(tiny_images))
    npm = {"npm": "tiny@1.0.0", "integrity": checksum(tarball, "sha512-")}
    shutil.copy(tiny_archive, here)
    monkeypatch.setenv(DATA_DIR, str(here))
    archive_server.requests.clear()
    # A source in the list lends the folder its files' names and checksums.
    for other, file in ((entry["sources"][0], tiny_archive.name), (npm, tarball.name)):
        shutil.rmtree(TO)
        _acquire(entry, sources=[{"folder": True}, other])
        assert _files(TO) == wanted
        assert _left() == set()
        assert f"{here}/{file}: content checked" in capfd.readouterr().err
        assert (here / file).exists(), "what the user gave is the user's"
    assert archive_server.requests == []


def test_sources_are_tried_in_order_and_each_refusal_is_said_at_once_and_again_when_none_is_left(
    here: Path,
    entry: Entry,
    archive_server: ArchiveServer,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    (good,) = entry["sources"]
    absent = {**good, "archive": f"{archive_server.url}/absent.tar.gz"}
    npm = {"npm": "tiny@1.0.0", "integrity": checksum(Path(__file__), "sha512-")}
    _acquire(entry, sources=[{"folder": True}, npm, absent, good, absent])
    lines = [line for line in capfd.readouterr().err.splitlines() if "download cifar" not in line]
    assert len(lines) == 4
    assert lines[0] == "cifar10-tiny: refused: folder $WRN_PIPE_DATA_DIR: the variable is not set"
    assert lines[1].startswith("cifar10-tiny: refused: npm tiny@1.0.0: npm view failed: ")
    assert lines[2] == f"cifar10-tiny: refused: archive {absent['archive']}: the server answers 404 Not Found"
    assert lines[3] == f"cifar10-tiny: archive {good['archive']}: content checked, written to {TO}"
    assert [request.path for request in archive_server.requests] == ["/absent.tar.gz", "/cifar-10-tiny.tar.gz"]

    shutil.rmtree(TO)
    monkeypatch.setenv(DATA_DIR, str(here))
    with pytest.raises(UserError) as caught:
        _acquire(entry, sources=[{"folder": True}, absent])
    assert f"{here}/absent.tar.gz: lacks absent.tar.gz; " in caught.value.what
    assert caught.value.what.endswith(f"archive {absent['archive']}: the server answers 404 Not Found")
    assert caught.value.remedy.startswith("set WRN_PIPE_DATA_DIR to a folder that holds one of absent.tar.gz; ")
    assert "\n" not in caught.value.what + caught.value.remedy
    assert not TO.exists()


def test_other_content_is_refused_and_the_next_source_is_tried(
    here: Path,
    entry: Entry,
    tiny_archive: Path,
    archive_server: ArchiveServer,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    """An archive whose md5 is pinned, by mistake or with intent: the digest of the content decides."""
    with pytest.raises(UserError, match=r"wrong content: train records are not"):
        _acquire(entry, record_digests={split: ["0" * 64] for split in SPLITS})
    assert not TO.exists()
    source = photos.source(archive_server, photos.other_content(tiny_archive, here / "other.tar.gz"))
    # A damaged archive in the user's folder gives way to the next source as well.
    (here / tiny_archive.name).write_bytes(tiny_archive.read_bytes()[:-1])
    monkeypatch.setenv(DATA_DIR, str(here))
    _acquire(entry, sources=[source, {"folder": True}, *entry["sources"]])
    said = capfd.readouterr().err
    assert "other.tar.gz: wrong content: train digest" in said
    assert f"refused: {here}/{tiny_archive.name}: cifar-10-tiny.tar.gz: wrong bytes" in said
    assert len(_files(TO)) == 4
    assert _left() == set()
    _acquire(entry, digests=None, record_digests=None)
    said = capfd.readouterr().err
    for split in SPLITS:
        assert f"{split}: no digest is pinned; that of this content is {entry['digests'][split]}" in said


def test_of_several_files_each_is_fetched_once(
    here: Path, entry: Entry, tiny_images: Splits, archive_server: ArchiveServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """SVHN's three: what came and was right is not fetched again, and from a folder nothing is."""
    paths = photos.svhn(tiny_images, here)
    files = [photos.source(archive_server, path) for path in paths]
    entry.update(reader="svhn-mat", record_digests=None)
    archive_server.plan(files[2]["archive"], archive_server.status(404))
    with pytest.raises(UserError, match=r"test_32x32\.mat: the server answers 404"):
        _acquire(entry, sources=[{"files": files}])
    assert _left() == {path.name for path in paths[:2]}
    _acquire(entry, sources=[{"files": files}])
    assert [request.path for request in archive_server.requests].count("/train_32x32.mat") == 1
    published = _files(TO)
    assert np.array_equal(load(TO, "train")[1], tiny_images["train"][1])
    shutil.rmtree(TO)
    archive_server.requests.clear()
    monkeypatch.setenv(DATA_DIR, str(here))
    _acquire(entry, sources=[{"folder": True}, {"files": files}])
    assert _files(TO) == published
    assert archive_server.requests == []


def test_an_archive_is_kept_while_its_content_is_not_published(
    here: Path, entry: Entry, archive_server: ArchiveServer
) -> None:
    Path("data").write_text("a file where a folder should be")
    with pytest.raises(UserError, match=r"cannot write data/raw/cifar10-tiny"):
        _acquire(entry)
    assert _left() == {"cifar-10-tiny.tar.gz"}
    Path("data").unlink()
    TO.mkdir(parents=True)
    (TO / "old").write_text("what an earlier run left")
    _acquire(entry)
    assert len(archive_server.requests) == 1
    assert len(_files(TO)) == 4
    assert [path.name for path in TO.parent.iterdir()] == ["cifar10-tiny"]
    assert _left() == set()
