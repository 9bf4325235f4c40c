"""pipeline.data.fetch.fetch_npm: the real npm client, with a real HTTP server as its registry."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from pipeline.data.fetch import Patience, fetch_npm, find_npm, npm_integrity
from pipeline.dataset_config import SourceError
from tests.data.packed import tar

if TYPE_CHECKING:
    from tests.conftest import ArchiveServer


@pytest.fixture(autouse=True)
def _nothing_of_the_users(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("npm_config_cache", str(tmp_path / "npm-cache"))
    monkeypatch.setenv("npm_config_userconfig", str(tmp_path / "npmrc"))


def test_npm_fetches_from_a_registry(
    tmp_path: Path, archive_server: ArchiveServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    tarball = tar(tmp_path / "tiny-1.0.0.tgz", {"package/package.json": b'{"name": "tiny", "version": "1.0.0"}'})
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
    other = npm_integrity(Path(__file__))
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
    tmp_path: Path, archive_server: ArchiveServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    (archive_server.folder / "tiny").write_text("{}" * 10)
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
