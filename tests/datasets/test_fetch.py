"""pipeline.datasets.fetch.fetch_archive against a real HTTP server that misbehaves."""

from __future__ import annotations

import hashlib
import os
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from pipeline.datasets.catalogue import SourceError
from pipeline.datasets.fetch import Patience, fetch_archive
from pipeline.errors import UserError

if TYPE_CHECKING:
    from tests.conftest import ArchiveServer

QUICK = Patience(connect_s=1, read_s=0.5, retries=2, backoff_s=0.02)
SIZE = 400_000


@pytest.fixture
def content() -> bytes:
    return b"".join(hashlib.sha256(i.to_bytes(4, "little")).digest() for i in range(SIZE // 32))


@pytest.fixture
def url(archive_server: ArchiveServer, content: bytes) -> str:
    (archive_server.folder / "a.tar.gz").write_bytes(content)
    return f"{archive_server.url}/a.tar.gz"


@pytest.fixture
def to(tmp_path: Path) -> Path:
    return tmp_path / "downloads" / "a.tar.gz"


def _fetch(url: str, content: bytes, to: Path, patience: Patience = QUICK) -> None:
    fetch_archive(url, hashlib.md5(content).hexdigest(), to, len(content), patience)


def _asked(server: ArchiveServer) -> list[tuple[str | None, int]]:
    return [(request.range, request.status) for request in server.requests]


def _part(to: Path) -> Path:
    return to.with_name("a.tar.gz.part")


def test_a_file_arrives_whole_and_is_not_fetched_twice(
    archive_server: ArchiveServer, url: str, content: bytes, to: Path
) -> None:
    _fetch(url, content, to)
    _fetch(url, content, to)
    assert to.read_bytes() == content
    assert [path.name for path in to.parent.iterdir()] == ["a.tar.gz"]
    assert _asked(archive_server) == [(None, 200)]


def test_a_damaged_file_in_the_way_is_replaced(url: str, content: bytes, to: Path) -> None:
    to.parent.mkdir()
    to.write_bytes(content[:-1] + b"x")
    _fetch(url, content, to)
    assert to.read_bytes() == content


def test_redirects_are_followed(archive_server: ArchiveServer, url: str, content: bytes, to: Path) -> None:
    archive_server.plan(f"{archive_server.url}/old", archive_server.redirect(url))
    _fetch(f"{archive_server.url}/old", content, to)
    assert to.read_bytes() == content


def test_a_redirect_without_end_is_refused(archive_server: ArchiveServer, url: str, content: bytes, to: Path) -> None:
    archive_server.plan(url, *[archive_server.redirect(url)] * 30)
    with pytest.raises(SourceError, match="maximum allowed redirects"):
        _fetch(url, content, to)


def test_wrong_bytes_leave_nothing(url: str, content: bytes, to: Path) -> None:
    with pytest.raises(SourceError, match=r"wrong bytes: md5 .*, not 0{32}"):
        fetch_archive(url, "0" * 32, to, len(content), QUICK)
    assert list(to.parent.iterdir()) == []


@pytest.mark.parametrize("difference", [-1, 1])
def test_a_wrong_length_is_refused_before_the_body(
    archive_server: ArchiveServer, url: str, content: bytes, to: Path, difference: int
) -> None:
    # The server would stall in the body: only the header can have told.
    archive_server.plan(url, archive_server.stall_after(100))
    with pytest.raises(SourceError, match=f"wrong bytes: {SIZE} of them, not {SIZE + difference}"):
        fetch_archive(url, hashlib.md5(content).hexdigest(), to, SIZE + difference, QUICK)
    assert list(to.parent.iterdir()) == []


@pytest.mark.parametrize("code", [401, 403, 404, 410])
def test_a_refusal_is_one_line_and_final(
    archive_server: ArchiveServer, url: str, content: bytes, to: Path, code: int
) -> None:
    archive_server.plan(url, archive_server.status(code))
    with pytest.raises(SourceError, match=rf"^the server answers {code} [A-Z][A-Za-z ]+$"):
        _fetch(url, content, to)
    assert _asked(archive_server) == [(None, code)]


def test_a_login_page_is_not_the_file(archive_server: ArchiveServer, url: str, content: bytes, to: Path) -> None:
    archive_server.plan(url, archive_server.web_page())
    with pytest.raises(SourceError, match="answers with a web page"):
        _fetch(url, content, to)
    assert list(to.parent.iterdir()) == []


def test_passing_failures_are_retried(archive_server: ArchiveServer, url: str, content: bytes, to: Path) -> None:
    archive_server.plan(url, archive_server.status(503), archive_server.status(429))
    _fetch(url, content, to)
    assert to.read_bytes() == content
    assert _asked(archive_server) == [(None, 503), (None, 429), (None, 200)]


def test_retries_end(archive_server: ArchiveServer, url: str, content: bytes, to: Path) -> None:
    archive_server.plan(url, *[archive_server.status(500)] * 9)
    with pytest.raises(SourceError, match="gave up after 3 failures in a row: the server answers 500"):
        _fetch(url, content, to)
    assert len(archive_server.requests) == 3


def test_dropped_connections_are_continued_as_long_as_more_arrives(
    archive_server: ArchiveServer, url: str, content: bytes, to: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    # More drops than retries: each brought something.
    archive_server.plan(url, *[archive_server.drop_after(70_000)] * 5)
    _fetch(url, content, to)
    assert to.read_bytes() == content
    assert [status for _, status in _asked(archive_server)] == [200, 206, 206, 206, 206, 206]
    assert _asked(archive_server)[-1][0] == "bytes=350000-"
    assert "350000 of 400000 bytes are here" in capfd.readouterr().err


def test_a_stalled_server_costs_seconds_and_keeps_what_came(
    archive_server: ArchiveServer, url: str, content: bytes, to: Path
) -> None:
    archive_server.plan(url, archive_server.stall_after(100_000), *[archive_server.stall_after(0)] * 9)
    started = time.monotonic()
    with pytest.raises(SourceError, match=r"gave up after 3 failures in a row: 0\.5 s of silence"):
        _fetch(url, content, to)
    assert time.monotonic() - started < 5
    assert _part(to).read_bytes() == content[:100_000]
    assert not to.exists()


def test_a_killed_download_is_continued(archive_server: ArchiveServer, url: str, content: bytes, to: Path) -> None:
    archive_server.plan(url, archive_server.stall_after(150_000))
    code = "import sys; from pathlib import Path; from pipeline.datasets.fetch import fetch_archive as fetch; "
    code += "fetch(sys.argv[1], sys.argv[2], Path(sys.argv[3]), int(sys.argv[4]))"
    arguments = [url, hashlib.md5(content).hexdigest(), str(to), str(SIZE)]
    root = Path(__file__).parents[2]
    process = subprocess.Popen([sys.executable, "-c", code, *arguments], cwd=root, stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 20
    # Python's file buffer holds back less than a chunk of what has come.
    while not (_part(to).exists() and _part(to).stat().st_size > 50_000):
        assert time.monotonic() < deadline
        assert process.poll() is None
        time.sleep(0.02)
    process.kill()
    process.wait()
    arrived = _part(to).stat().st_size
    _fetch(url, content, to)
    assert to.read_bytes() == content
    assert _asked(archive_server) == [(None, 200), (f"bytes={arrived}-", 206)]


def _resume(to: Path, piece: bytes) -> None:
    to.parent.mkdir()
    _part(to).write_bytes(piece)


def test_a_server_without_ranges_sends_all_again(
    archive_server: ArchiveServer, url: str, content: bytes, to: Path
) -> None:
    _resume(to, content[:1000])
    archive_server.plan(url, archive_server.whole_file())
    _fetch(url, content, to)
    assert to.read_bytes() == content
    assert _asked(archive_server) == [("bytes=1000-", 200)]


def test_a_piece_of_another_file_costs_one_more_download(
    archive_server: ArchiveServer, url: str, content: bytes, to: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    _resume(to, b"not the beginning of it")
    _fetch(url, content, to)
    assert to.read_bytes() == content
    assert _asked(archive_server) == [("bytes=23-", 206), (None, 200)]
    assert "starting over" in capfd.readouterr().err


def test_starting_over_happens_once(archive_server: ArchiveServer, url: str, content: bytes, to: Path) -> None:
    _resume(to, content[:1000])
    with pytest.raises(SourceError, match="wrong bytes: md5"):
        fetch_archive(url, "0" * 32, to, SIZE, QUICK)
    assert _asked(archive_server) == [("bytes=1000-", 206), (None, 200)]
    assert list(to.parent.iterdir()) == []


def test_a_finished_part_needs_no_server(url: str, content: bytes, to: Path) -> None:
    _resume(to, content)
    _fetch("http://127.0.0.1:1/a.tar.gz", content, to)
    assert to.read_bytes() == content


def test_a_part_that_is_too_long_is_thrown_away(
    archive_server: ArchiveServer, url: str, content: bytes, to: Path
) -> None:
    _resume(to, content + b"x")
    _fetch(url, content, to)
    assert to.read_bytes() == content
    assert _asked(archive_server) == [(None, 200)]


def test_a_closed_port_costs_no_retry(content: bytes, to: Path) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    started = time.monotonic()
    with pytest.raises(SourceError, match=r"cannot be reached: .*refused"):
        _fetch(f"http://127.0.0.1:{port}/a.tar.gz", content, to, Patience())
    assert time.monotonic() - started < 2


def test_an_unknown_host_costs_no_retry(content: bytes, to: Path) -> None:
    started = time.monotonic()
    with pytest.raises(SourceError, match="cannot be reached"):
        _fetch("http://nowhere.invalid/a.tar.gz", content, to, Patience())
    assert time.monotonic() - started < 8


def test_a_full_disk_is_told_as_such(url: str, content: bytes, to: Path) -> None:
    if not os.path.exists("/dev/full"):
        pytest.skip("needs /dev/full, a device on which every write fails for want of space")
    to.parent.mkdir()
    _part(to).symlink_to("/dev/full")
    with pytest.raises(UserError, match=r"disk full while writing .*a\.tar\.gz\.part") as caught:
        _fetch(url, content, to)
    assert "free some space" in caught.value.remedy


def test_a_place_that_cannot_be_written_is_told_as_such(url: str, content: bytes, to: Path) -> None:
    to.parent.write_text("a file where a folder should be")
    with pytest.raises(UserError, match="cannot write"):
        _fetch(url, content, to)
