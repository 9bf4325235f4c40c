"""Each source gives the same files; nothing wrong or half-written is ever published; and the stage, as DVC runs it."""

from __future__ import annotations

import hashlib
import re
import shutil
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import photos
import pytest
import tiny
from project import make_project
from ruamel.yaml import YAML

from pipeline.data import dataset_download
from pipeline.data.conversion import load
from pipeline.data.dataset_download import acquire, checksum
from pipeline.data.readers import Splits
from pipeline.dataset_config import DATA_DIR, SPLITS, Dataset
from pipeline.errors import UserError

if TYPE_CHECKING:
    from tests.conftest import ArchiveServer

NAME = "cifar10-tiny"
TO = Path("data/raw") / NAME
Entry = dict[str, Any]


@dataclass(frozen=True)
class Here:
    """An empty working directory, and the tiny dataset, whose archive a server has."""

    folder: Path
    archive: Path
    server: ArchiveServer
    entry: Entry
    capfd: pytest.CaptureFixture[str]

    def acquire(self, **changes: Any) -> str:
        """What is said meanwhile."""
        self.capfd.readouterr()
        acquire(NAME, Dataset.model_validate({**self.entry, **changes}), TO)
        return self.capfd.readouterr().err

    def asked(self) -> list[str]:
        return [request.path for request in self.server.requests]


@pytest.fixture
def here(
    tmp_path: Path,
    archive_server: ArchiveServer,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> Here:
    """With no folder named, and an npm that reaches no registry."""
    monkeypatch.delenv(DATA_DIR, raising=False)
    monkeypatch.setattr(dataset_download, "BACKOFF_S", 0.02)
    monkeypatch.setenv("npm_config_cache", str(tmp_path / "npm-cache"))
    monkeypatch.setenv("npm_config_registry", "http://127.0.0.1:1/")
    folder = tmp_path / "here"
    folder.mkdir()
    monkeypatch.chdir(folder)
    return Here(folder, tiny.ARCHIVE, archive_server, tiny.entry(archive_server.put(tiny.ARCHIVE)), capfd)


def _files() -> dict[str, str]:
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in TO.iterdir()}


def _left() -> set[str]:
    """Names of what lies about beside the published folder."""
    paths = {path for root in (Path("scratch"), Path("data")) for path in root.rglob("*") if path.is_file()}
    return {path.name for path in paths if path.parent != TO}


def test_every_source_gives_the_same_files(here: Here, tiny_images: Splits, monkeypatch: pytest.MonkeyPatch) -> None:
    here.acquire()
    wanted = _files()
    assert sorted(wanted) == ["test_images.npy", "test_labels.npy", "train_images.npy", "train_labels.npy"]
    assert _left() == set()
    for split in SPLITS:
        np.testing.assert_array_equal(load(TO, split)[0], tiny_images[split][0])
        np.testing.assert_array_equal(load(TO, split)[1], tiny_images[split][1])

    tarball = photos.packed(here.folder / "tiny-1.0.0.tgz", photos.npm_members(tiny_images))
    npm = {"npm": "tiny@1.0.0", "integrity": checksum(tarball, "sha512-")}
    shutil.copy(here.archive, here.folder)
    monkeypatch.setenv("HOME", str(here.folder.parent))
    monkeypatch.setenv(DATA_DIR, f"~/{here.folder.name}")  # as no shell expands it in quotes
    here.server.requests.clear()
    # A source in the list lends the folder its files' names and checksums.
    for other, file in ((here.entry["sources"][0], here.archive.name), (npm, tarball.name)):
        shutil.rmtree(TO)
        assert f"{here.folder}/{file}: content checked" in here.acquire(sources=[{"folder": True}, other])
        assert _files() == wanted
        assert _left() == set()
        assert (here.folder / file).exists(), "what the user gave is the user's"
    assert here.asked() == []


def test_sources_are_tried_in_order_and_each_refusal_is_said_at_once_and_again_when_none_is_left(
    here: Here, monkeypatch: pytest.MonkeyPatch
) -> None:
    (good,) = here.entry["sources"]
    absent = {**good, "archive": f"{here.server.url}/absent.tar.gz"}
    npm = {"npm": "tiny@1.0.0", "integrity": checksum(Path(__file__), "sha512-")}
    said = here.acquire(sources=[{"folder": True}, npm, absent, good, absent])
    lines = [line for line in said.splitlines() if "download cifar" not in line]
    assert lines[0] == "cifar10-tiny: refused: folder $WRN_PIPE_DATA_DIR: the variable is not set"
    assert lines[1].startswith("cifar10-tiny: refused: npm tiny@1.0.0: npm view failed: ")
    assert lines[2] == f"cifar10-tiny: refused: archive {absent['archive']}: the server answers 404 Not Found"
    assert lines[3:] == [f"cifar10-tiny: archive {good['archive']}: content checked, written to {TO}"]
    assert here.asked() == ["/absent.tar.gz", "/cifar-10-tiny.tar.gz"]

    shutil.rmtree(TO)
    monkeypatch.setenv(DATA_DIR, str(here.folder))
    with pytest.raises(UserError) as caught:
        here.acquire(sources=[{"folder": True}, absent])
    assert f"{here.folder}/absent.tar.gz: lacks absent.tar.gz; " in caught.value.what
    assert caught.value.what.endswith(f"archive {absent['archive']}: the server answers 404 Not Found")
    assert caught.value.remedy.startswith("set WRN_PIPE_DATA_DIR to a folder with absent.tar.gz; home page: ")
    assert "\n" not in caught.value.what + caught.value.remedy
    assert not TO.exists()


def test_other_content_is_refused_and_the_next_source_is_tried(here: Here, monkeypatch: pytest.MonkeyPatch) -> None:
    """An archive whose md5 is pinned, by mistake or with intent: the digest of the content decides."""
    with pytest.raises(UserError, match=r"wrong content: train records are not"):
        here.acquire(record_digests={split: ["0" * 64] for split in SPLITS})
    assert not TO.exists()
    source = photos.source(here.server, photos.other_content(here.archive, here.folder / "other.tar.gz"))
    # A damaged archive in the user's folder gives way to the next source as well.
    (here.folder / here.archive.name).write_bytes(here.archive.read_bytes()[:-1])
    monkeypatch.setenv(DATA_DIR, str(here.folder))
    said = here.acquire(sources=[source, {"folder": True}, *here.entry["sources"]])
    assert "other.tar.gz: wrong content: train digest" in said
    assert f"refused: {here.folder}/{here.archive.name}: cifar-10-tiny.tar.gz: wrong bytes" in said
    assert (len(_files()), _left()) == (4, set())
    said = here.acquire(digests=None, record_digests=None)
    for split in SPLITS:
        assert f"{split}: no digest is pinned; that of this content is {here.entry['digests'][split]}" in said


def test_of_several_files_each_is_fetched_once(
    here: Here, tiny_images: Splits, monkeypatch: pytest.MonkeyPatch
) -> None:
    """SVHN's three: what came and was right is not fetched again, and from a folder nothing is."""
    paths = photos.svhn(tiny_images, here.folder)
    files = [photos.source(here.server, path) for path in paths]
    here.entry.update(reader="svhn-mat", record_digests=None)
    here.server.plan(files[2]["archive"], here.server.status(404))
    with pytest.raises(UserError, match=r"test_32x32\.mat: the server answers 404"):
        here.acquire(sources=[{"files": files}])
    assert _left() == {path.name for path in paths[:2]}
    here.acquire(sources=[{"files": files}])
    assert here.asked().count("/train_32x32.mat") == 1
    published = _files()
    assert np.array_equal(load(TO, "train")[1], tiny_images["train"][1])
    shutil.rmtree(TO)
    here.server.requests.clear()
    monkeypatch.setenv(DATA_DIR, str(here.folder))
    here.acquire(sources=[{"folder": True}, {"files": files}])
    assert _files() == published
    assert here.asked() == []


def test_an_archive_is_kept_while_its_content_is_not_published(here: Here) -> None:
    Path("data").write_text("a file where a folder should be")
    with pytest.raises(UserError, match=r"cannot write data/raw/cifar10-tiny"):
        here.acquire()
    assert _left() == {"cifar-10-tiny.tar.gz"}
    Path("data").unlink()
    TO.mkdir(parents=True)
    (TO / "old").write_text("what an earlier run left")
    here.acquire()
    assert (len(here.asked()), len(_files())) == (1, 4)
    assert [path.name for path in TO.parent.iterdir()] == ["cifar10-tiny"]
    assert _left() == set()


def test_a_dataset_comes_or_is_two_lines_at_the_end_and_unpinned_content_is_that_of_its_first_use(
    here: Here, tmp_path: Path
) -> None:
    project = make_project(tmp_path / "project", here.entry)
    raw = project.root / TO

    def use(archive: Path) -> None:
        """Without a digest of the content."""
        source = photos.source(here.server, archive)
        unpinned = {"sources": [source], "digests": None, "record_digests": None}
        project.edit(lambda params: params["datasets"][NAME].update(unpinned))

    def download(dataset: str) -> tuple[int, list[str]]:
        ended = project.run(sys.executable, "-m", "stages.download", dataset)
        assert ended.stdout == ""
        return ended.returncode, ended.stderr.splitlines()[-2:]

    absent = ["error: params.yaml has no dataset 'cifar01-tiny'", "  fix: did you mean cifar10-tiny?"]
    assert download("cifar01-tiny") == (2, absent)
    use(here.archive)
    first = project.cli("repro", f"download@{NAME}")
    assert first.returncode == 0, first.stderr
    assert "no digest is pinned" in first.stderr + first.stdout
    assert len(list(raw.iterdir())) == 4
    (out,) = YAML(typ="safe").load(project.lock())["stages"][f"download@{NAME}"]["outs"]

    use(photos.other_content(here.archive, tmp_path / "other.tar.gz"))
    code, (error, fix) = download(NAME)
    assert code == 2
    assert error.startswith(f"error: data/raw/{NAME}: wrong content: md5 ")
    assert f"dvc.lock has {out['md5']} since its first use" in error + fix
    assert f"if it is this one, take download@{NAME} out of dvc.lock" in fix
    assert not raw.exists()

    (here.server.folder / "other.tar.gz").unlink()
    ended = project.cli("repro", f"download@{NAME}")
    assert ended.returncode == 2, "DVC itself reports every failure as 255"
    ((error, fix),) = re.findall(r"^(error: .*)\n(  fix: .*)", ended.stderr, re.MULTILINE)
    assert error.startswith(f"error: {NAME}: no source gives it: archive http://127.0.0.1:")
    assert error.endswith("the server answers 404 Not Found")
    assert fix.startswith("  fix: set WRN_PIPE_DATA_DIR to a folder with other.tar.gz, and add `- folder: true`")
