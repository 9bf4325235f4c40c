"""Proxies of the environment: a real one on this machine, and settings that no client can follow."""

from __future__ import annotations

import re
import socket
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest

from pipeline.data.fetch import fetch_archive
from pipeline.dataset_config import SourceError
from pipeline.errors import UserError
from tests.data.answers import CONTENT, MD5, QUICK, SIZE

FAR = "http://far.invalid/a.tar.gz"
"""Only a proxy can reach it: the name does not resolve here."""


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
        assert urlsplit(self.path).hostname == "far.invalid", "a proxy is sent the whole address"
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


@pytest.fixture
def to(tmp_path: Path) -> Path:
    return tmp_path / "downloads" / "a.tar.gz"


@pytest.mark.parametrize("name", ["HTTP_PROXY", "http_proxy", "ALL_PROXY"])
def test_it_fetches_what_only_it_can_reach(name: str, proxy: Proxy, to: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(name, proxy.url)
    fetch_archive(FAR, MD5, to, SIZE, QUICK)
    assert to.read_bytes() == CONTENT
    assert proxy.seen == [f"GET {FAR}"]


def test_no_proxy_goes_around_it(proxy: Proxy, to: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HTTP_PROXY", proxy.url)
    monkeypatch.setenv("NO_PROXY", "elsewhere.invalid,far.invalid")
    with pytest.raises(SourceError, match=r"^cannot be reached: "):
        fetch_archive(FAR, MD5, to, SIZE, QUICK)
    assert proxy.seen == []


def test_a_proxy_that_wants_a_password_is_a_refusal(proxy: Proxy, to: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    proxy.allows = False
    monkeypatch.setenv("HTTP_PROXY", proxy.url)
    with pytest.raises(SourceError, match=r"^the server answers 407 Proxy Authentication Required$"):
        fetch_archive(FAR, MD5, to, SIZE, QUICK)


def test_a_proxy_that_lets_no_https_through_is_a_refusal(
    proxy: Proxy, to: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HTTPS_PROXY", proxy.url)
    with pytest.raises(SourceError, match=r"^cannot be reached: 403 Forbidden$"):
        fetch_archive(FAR.replace("http:", "https:"), MD5, to, SIZE, QUICK)
    assert proxy.seen == ["CONNECT far.invalid:443"]


def test_a_proxy_that_is_not_there_is_a_refusal(proxy: Proxy, to: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        monkeypatch.setenv("HTTP_PROXY", f"http://127.0.0.1:{free.getsockname()[1]}")
    with pytest.raises(SourceError, match=r"^cannot be reached: .*refused"):
        fetch_archive(FAR, MD5, to, SIZE, QUICK)


@pytest.mark.parametrize(
    ("name", "value", "why"),
    [
        ("HTTP_PROXY", "gopher://127.0.0.1:70", "gopher"),
        ("ALL_PROXY", "socks5://127.0.0.1:1080", "SOCKS"),
        ("HTTPS_PROXY", "http://127.0.0.1:port", "port"),
        ("SSL_CERT_FILE", "no-such-file.pem", "No such file"),
    ],
)
def test_settings_that_cannot_be_followed_are_a_mistake_of_the_users(
    name: str, value: str, why: str, proxy: Proxy, to: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(name, value)
    with pytest.raises(UserError, match=f"settings for the network cannot be used: .*{re.escape(why)}") as caught:
        fetch_archive(FAR, MD5, to, SIZE, QUICK)
    assert name in caught.value.remedy
    assert "\n" not in str(caught.value.what)
