"""Answers of a web server that an honest one would not give, for the ArchiveServer of tests/conftest.py."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from typing import Any

from pipeline.data.fetch import Patience

QUICK = Patience(read_s=20, retries=2, backoff_s=0.02)
IMPATIENT = Patience(read_s=0.5, retries=2, backoff_s=0.02)
"""Where the server is silent: any other could be for so long on a busy machine."""
CONTENT = b"".join(hashlib.sha256(i.to_bytes(4, "little")).digest() for i in range(12_500))
SIZE = len(CONTENT)
OTHER = CONTENT[::-1]
"""Another version of the file, of the same length."""
MD5 = hashlib.md5(CONTENT).hexdigest()

Answer = Callable[[Any], None]
"""What the server does with one request; the argument is its handler."""


def status(code: int, **headers: str) -> Answer:
    return lambda handler: handler.send(code, b"", "text/plain", **headers)


def whole(body: bytes = CONTENT, stop_after: int | None = None, **headers: str) -> Answer:
    """All of it, whatever range was asked for."""
    return lambda handler: handler.send(200, body, "application/octet-stream", stop_after, **headers)


def rest(body: bytes, start: int, **headers: str) -> Answer:
    """What a server sends that continues at `start`."""
    where = f"bytes {start}-{len(body) - 1}/{len(body)}"
    return lambda handler: handler.send(206, body[start:], "application/octet-stream", Content_Range=where, **headers)


def page(handler: Any) -> None:
    handler.send(200, b"<html>please log in</html>", "text/html; charset=utf-8")


def drop(count: int) -> Answer:
    """The range that was asked for, broken off after `count` bytes."""
    return lambda handler: handler.send_range(stop_after=count)


def stall(count: int) -> Answer:
    def behave(handler: Any) -> None:
        handler.send_range(stop_after=count)
        handler.of.closing.wait(60)

    return behave


def silence(handler: Any) -> None:
    handler.of.closing.wait(60)


def say(*parts: bytes) -> Answer:
    """These bytes and nothing else, then the end."""

    def behave(handler: Any) -> None:
        handler.wfile.write(b"".join(parts))
        handler.close_connection = True

    return behave


def chunked(body: bytes) -> Answer:
    chunks = [body[start : start + 50_000] for start in range(0, len(body), 50_000)]
    framed = b"".join(b"%x\r\n%b\r\n" % (len(chunk), chunk) for chunk in chunks)
    return say(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", framed, b"0\r\n\r\n")


def redirect(to: str) -> Answer:
    return lambda handler: handler.send(302, b"", "text/plain", Location=to.replace("HERE", handler.of.url))
