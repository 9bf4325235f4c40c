"""pipeline.data.fetch.fetch_archive against a real server that misbehaves, behind a proxy, and on a full disk."""

from __future__ import annotations

import gzip
import re
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from full_disk import file_size_limit

from pipeline.data.fetch import Patience, fetch_archive
from pipeline.dataset_config import SourceError
from pipeline.errors import UserError
from tests.data.answers import (
    CONTENT,
    IMPATIENT,
    MD5,
    OTHER,
    QUICK,
    SIZE,
    Answer,
    chunked,
    drop,
    page,
    redirect,
    rest,
    say,
    silence,
    stall,
    status,
    whole,
)

if TYPE_CHECKING:
    from tests.conftest import ArchiveServer


@dataclass(frozen=True)
class Case:
    """A server's answers to the first requests, after which it is honest, and what comes of it."""

    server: tuple[Answer, ...]
    reads: str = ""
    """What the user reads, a regular expression; nothing if the file arrives."""
    asked: list[tuple[str | None, int]] | None = None
    """Range and status of all requests that were answered in order."""
    part: bytes | None = None
    """What an earlier attempt has left."""
    left: bytes | None = None
    """What this attempt leaves for the next."""
    patience: Patience = QUICK


DROPPED = whole(OTHER, 100_000)
REST = "bytes=100000-"

NETWORK: dict[str, Case] = {
    # refusals
    "404": Case((status(404),), "^the server answers 404 Not Found$", [(None, 404)]),
    "a login page in place of the file": Case((page,), "answers with a web page, not with the file", [(None, 200)]),
    "a part where all was asked for": Case((rest(CONTENT, 9),), "answers 206 Partial Content", [(None, 206)]),
    # failures that pass, and that do not
    "503, 429, 408, then the file": Case(
        (status(503), status(429), drop(70_000), status(408)),
        asked=[(None, 503), (None, 429), (None, 200), ("bytes=70000-", 408), ("bytes=70000-", 206)],
    ),
    "500 for ever": Case((status(500),) * 9, "gave up after 3 failures in a row: .* 500 Internal", [(None, 500)] * 3),
    "a connection dropped five times": Case(
        (drop(70_000),) * 5, asked=[(None, 200)] + [(f"bytes={70_000 * i}-", 206) for i in range(1, 6)]
    ),
    "a connection dropped after every byte": Case((drop(1),) * 99, "gave up after 3 failures", left=CONTENT[:3]),
    "silence in place of an answer": Case(
        (silence,) * 9, r"gave up after 3 failures in a row: 0\.5 s of silence", patience=IMPATIENT
    ),
    "silence midway": Case(
        (stall(100_000), *(stall(0),) * 9),
        r"3 failures in a row: 0\.5 s of silence",
        left=CONTENT[:100_000],
        patience=IMPATIENT,
    ),
    # redirects
    "a redirect to the file": Case((redirect("HERE/moved"), whole()), asked=[(None, 302), (None, 200)]),
    "a redirect in a circle": Case((redirect("HERE/a.tar.gz"),) * 30, "Exceeded maximum allowed redirects"),
    "a redirect to a file of this machine": Case((redirect("file:///etc/hostname"),), "unsupported proto"),
    # lengths
    "a length one too long": Case((whole(CONTENT + b"x"),), f"wrong bytes: {SIZE + 1} of them, not {SIZE}"),
    "a length that is not kept": Case((whole(stop_after=5),), asked=[(None, 200), ("bytes=5-", 206)]),
    "no length, and the end too early": Case(
        (say(b"HTTP/1.1 200 OK\r\n\r\n", CONTENT[:9_000]),), asked=[("bytes=9000-", 206)]
    ),
    "chunks, one byte too many": Case((chunked(CONTENT + b"x"),), f"wrong bytes: more than {SIZE}"),
    "compressed though not asked to": Case(
        (whole(gzip.compress(CONTENT), Content_Encoding="gzip"),), r"wrong bytes: \d+ of them"
    ),
    # other bytes
    "other bytes of the right length": Case((whole(OTHER),), f"^wrong bytes: md5 [0-9a-f]{{32}}, not {MD5}$"),
    "a piece of another file lies here": Case(
        (), asked=[("bytes=23-", 206), (None, 200)], part=b"not the beginning of it"
    ),
    "a piece lies here, and the rest is wrong twice": Case(
        (rest(OTHER, 1000), whole(OTHER)), "wrong bytes: md5", [("bytes=1000-", 206), (None, 200)], CONTENT[:1000]
    ),
    "all of it lies here unnamed": Case((), asked=[], part=CONTENT),
    "more than all of it lies here": Case((), asked=[(f"bytes={SIZE + 1}-", 416), (None, 200)], part=CONTENT + b"x"),
    # resuming
    "no ranges": Case((whole(),), asked=[("bytes=1000-", 200)], part=CONTENT[:1000]),
    "416 for all of it": Case((status(416),) * 9, "gave up after 3 failures in a row: the server cannot continue"),
    "changed midway": Case((DROPPED,), asked=[(None, 200), (REST, 206), (None, 200)]),
    "changed midway, every time": Case(
        (DROPPED, rest(CONTENT, 100_000), DROPPED, rest(CONTENT, 100_000)), "wrong bytes: md5"
    ),
}


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
def test_a_server_may_do_as_it_likes(name: str, archive_server: ArchiveServer, url: str, to: Path) -> None:
    """The file arrives as pinned or not at all, within seconds, and the refusal is one line that says why."""
    case = NETWORK[name]
    archive_server.plan(url, *case.server)
    if name == "a redirect to the file":
        archive_server.planned = {"/a.tar.gz": [case.server[0]], "/moved": [case.server[1]]}
    part = to.with_name("a.tar.gz.part")
    if case.part is not None:
        to.parent.mkdir()
        part.write_bytes(case.part)
    if case.reads:
        with pytest.raises(SourceError, match=case.reads) as caught:
            fetch_archive(url, MD5, to, SIZE, case.patience)
        assert "\n" not in str(caught.value)
        assert not to.exists()
    else:
        fetch_archive(url, MD5, to, SIZE, case.patience)
        assert to.read_bytes() == CONTENT
    if case.asked is not None:
        assert _asked(archive_server) == case.asked
    if case.left is not None:
        assert part.read_bytes() == case.left
    elif not case.reads or "md5" in case.reads:
        assert [path.name for path in to.parent.iterdir()] == ([] if case.reads else ["a.tar.gz"])


def test_a_file_that_is_here_is_not_fetched_again(archive_server: ArchiveServer, url: str, to: Path) -> None:
    for _ in range(2):
        fetch_archive(url, MD5, to, SIZE, QUICK)
    assert _asked(archive_server) == [(None, 200)]
    to.write_bytes(CONTENT[:-1] + b"x")
    fetch_archive(url, MD5, to, SIZE, QUICK)
    assert to.read_bytes() == CONTENT


def test_what_a_retry_waits_for_is_said(
    archive_server: ArchiveServer, url: str, to: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    archive_server.plan(url, drop(70_000), status(503), drop(70_000))
    fetch_archive(url, MD5, to, SIZE, QUICK)
    lines = [line for line in capfd.readouterr().err.splitlines() if "trying again" in line]
    # The wait doubles, and starts again when more has come.
    assert [re.sub(r".*; (\d+) of \d+ bytes are here, trying again in", r"\1", line) for line in lines] == [
        "70000 0.02 s",
        "70000 0.04 s",
        "140000 0.02 s",
    ]


def test_a_killed_download_is_continued(archive_server: ArchiveServer, url: str, to: Path) -> None:
    archive_server.plan(url, stall(150_000))
    code = "import sys; from pathlib import Path; from pipeline.data.fetch import fetch_archive as fetch; "
    code += "fetch(sys.argv[1], sys.argv[2], Path(sys.argv[3]), int(sys.argv[4]))"
    root = Path(__file__).parents[2]
    command = [sys.executable, "-c", code, url, MD5, str(to), str(SIZE)]
    process = subprocess.Popen(command, cwd=root, stderr=subprocess.DEVNULL)
    part = to.with_name("a.tar.gz.part")
    deadline = time.monotonic() + 120
    # Python's file buffer holds back less than a chunk of what has come.
    while not (part.exists() and part.stat().st_size > 50_000):
        assert time.monotonic() < deadline
        assert process.poll() is None
        time.sleep(0.02)
    process.kill()
    process.wait()
    arrived = part.stat().st_size
    fetch_archive(url, MD5, to, SIZE, QUICK)
    assert to.read_bytes() == CONTENT
    assert _asked(archive_server) == [(None, 200), (f"bytes={arrived}-", 206)]


def _closed_port() -> str:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return f"http://127.0.0.1:{free.getsockname()[1]}/a.tar.gz"


@pytest.mark.parametrize("address", [_closed_port, lambda: "http://nowhere.invalid/a.tar.gz"], ids=["port", "name"])
def test_an_unreachable_host_costs_no_retry(
    address: Callable[[], str], to: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SourceError, match=r"^cannot be reached: "):
        fetch_archive(address(), MD5, to, SIZE, Patience())
    assert "trying again" not in capfd.readouterr().err


@dataclass
class Proxy:
    url: str = ""
    allows: bool = True
    seen: list[str] = field(default_factory=list)
    """Method and target of each request."""


class _Handler(BaseHTTPRequestHandler):
    def __init__(self, proxy: Proxy, *arguments: Any) -> None:
        self.proxy = proxy
        super().__init__(*arguments)

    def do_GET(self) -> None:
        self.proxy.seen.append(f"GET {self.path}")
        self.send_response(200 if self.proxy.allows else 407)
        self.send_header("Content-Length", str(SIZE if self.proxy.allows else 0))
        self.end_headers()
        if self.proxy.allows:
            self.wfile.write(CONTENT)

    def do_CONNECT(self) -> None:
        self.proxy.seen.append(f"CONNECT {self.path}")
        self.send_error(403)

    def log_message(self, *_: Any) -> None:
        """`seen` is the log."""


@pytest.fixture
def proxy(monkeypatch: pytest.MonkeyPatch) -> Iterator[Proxy]:
    for name in ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "NO_PROXY"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.lower(), raising=False)
    proxy = Proxy()
    with ThreadingHTTPServer(("127.0.0.1", 0), partial(_Handler, proxy)) as server:
        proxy.url = f"http://127.0.0.1:{server.server_port}"
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        yield proxy
        server.shutdown()
        thread.join()


FAR = "http://far.invalid/a.tar.gz"
"""Only a proxy can reach it: the name does not resolve here."""


@pytest.mark.parametrize("name", ["HTTP_PROXY", "http_proxy", "ALL_PROXY"])
def test_a_proxy_fetches_what_only_it_can_reach(
    name: str, proxy: Proxy, to: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(name, proxy.url)
    fetch_archive(FAR, MD5, to, SIZE, QUICK)
    assert to.read_bytes() == CONTENT
    assert proxy.seen == [f"GET {FAR}"]


@pytest.mark.parametrize(
    ("settings", "allows", "url", "said", "seen"),
    [
        ({"HTTP_PROXY": "HERE", "NO_PROXY": "far.invalid"}, True, FAR, "^cannot be reached: ", []),
        ({"HTTP_PROXY": "HERE"}, False, FAR, "^the server answers 407 Proxy Authentication Required$", [f"GET {FAR}"]),
        (
            {"HTTPS_PROXY": "HERE"},
            True,
            FAR.replace("http:", "https:"),
            "^cannot be reached: 403 Forbidden$",
            ["CONNECT far.invalid:443"],
        ),
        ({"HTTP_PROXY": "http://127.0.0.1:1"}, True, FAR, "^cannot be reached: .*refused", []),
    ],
)
def test_a_proxy_that_does_not_help_is_a_refusal(
    settings: dict[str, str],
    allows: bool,
    url: str,
    said: str,
    seen: list[str],
    proxy: Proxy,
    to: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    proxy.allows = allows
    for name, value in settings.items():
        monkeypatch.setenv(name, value.replace("HERE", proxy.url))
    with pytest.raises(SourceError, match=said):
        fetch_archive(url, MD5, to, SIZE, QUICK)
    assert proxy.seen == seen


@pytest.mark.parametrize(
    ("name", "value", "why"),
    [
        ("HTTP_PROXY", "gopher://127.0.0.1:70", "gopher"),
        ("ALL_PROXY", "socks5://127.0.0.1:1080", "SOCKS"),
        ("SSL_CERT_FILE", "no-such-file.pem", "No such file"),
    ],
)
def test_settings_that_cannot_be_followed_are_a_mistake_of_the_users(
    name: str, value: str, why: str, proxy: Proxy, to: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(name, value)
    with pytest.raises(UserError, match=f"settings for the network cannot be used: .*{why}") as caught:
        fetch_archive(FAR, MD5, to, SIZE, QUICK)
    assert name in caught.value.remedy
    assert "\n" not in str(caught.value.what)


def test_a_disk_that_is_full_or_does_not_let_us_write_is_told_as_such(url: str, tmp_path: Path) -> None:
    with file_size_limit(100_000), pytest.raises(UserError, match=r"part exceeds the largest file allowed") as caught:
        fetch_archive(url, MD5, tmp_path / "a.tar.gz", SIZE, QUICK)
    assert caught.value.remedy.startswith("raise the limit (ulimit -f)")
    (tmp_path / "a.tar.gz.part").unlink()
    (tmp_path / "a.tar.gz.part").symlink_to("/dev/full")
    with pytest.raises(UserError, match=r"disk full while writing .*a\.tar\.gz\.part") as caught:
        fetch_archive(url, MD5, tmp_path / "a.tar.gz", SIZE, QUICK)
    assert caught.value.remedy.startswith("free some space")
    (tmp_path / "file").write_text("a file where a folder should be")
    with pytest.raises(UserError, match=r"cannot write .*: (File exists|Not a directory)") as caught:
        fetch_archive(url, MD5, tmp_path / "file" / "a.tar.gz", SIZE, QUICK)
    assert caught.value.remedy == "make that place writable"
