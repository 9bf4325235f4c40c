"""A real MLflow server on loopback, behind a gate that asks for a user and a password as a company's proxy does."""

import base64
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import httpx


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@contextmanager
def mlflow_server(folder: Path, port: int) -> Iterator[str]:
    """`mlflow server` with its database, artifacts and log in `folder`, answering at the yielded address."""
    folder.mkdir(exist_ok=True)
    with (folder / "server.log").open("a") as log:
        running = subprocess.Popen(
            [
                *(sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(port)),
                *("--workers", "1", "--backend-store-uri", f"sqlite:///{folder}/mlflow.db"),
                *("--artifacts-destination", (folder / "artifacts").as_uri()),
            ],
            stdout=log,
            stderr=log,
            env={**os.environ, "MLFLOW_TRACKING_URI": "", "MLFLOW_DISABLE_TELEMETRY": "true"},
            start_new_session=True,
        )
    try:
        wait_for(f"http://127.0.0.1:{port}", running)
        yield f"http://127.0.0.1:{port}"
    finally:
        os.killpg(running.pid, signal.SIGKILL)
        running.wait()


def wait_for(address: str, process: "subprocess.Popen[Any]") -> None:
    """Return when `address` answers; it is up to pytest's time limit when it never does."""
    while process.poll() is None:
        try:
            if httpx.get(address).status_code == 200:
                return
        except httpx.TransportError:
            time.sleep(0.1)
    raise AssertionError(f"{address} ended with {process.returncode}")


@dataclass
class Gate:
    """Passes on what carries the right credentials, and refuses the rest with 401."""

    to: str
    user: str
    password: str
    port: int = 0
    answers: list[int] = field(default_factory=list)

    def expects(self) -> str:
        return "Basic " + base64.b64encode(f"{self.user}:{self.password}".encode()).decode()


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def __init__(self, gate: Gate, *arguments: Any) -> None:
        self.gate = gate
        super().__init__(*arguments)

    def pass_on(self) -> None:
        content = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        if self.headers.get("Authorization") != self.gate.expects():
            self.answer(401, b"", "text/plain")
            return
        kept = {k: v for k, v in self.headers.items() if k.lower() in ("content-type", "accept")}
        try:
            got = httpx.request(self.command, self.gate.to + self.path, content=content, headers=kept, timeout=60)
        except httpx.TransportError:
            self.answer(502, b"", "text/plain")
            return
        self.answer(got.status_code, got.content, got.headers.get("Content-Type", "text/plain"))

    do_GET = do_POST = do_PUT = do_PATCH = do_DELETE = pass_on  # noqa: N815

    def answer(self, code: int, body: bytes, kind: str) -> None:
        self.gate.answers.append(code)
        self.send_response(code)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: Any) -> None:
        """Nothing on stderr."""


@contextmanager
def gate(to: str, user: str, password: str) -> Iterator[Gate]:
    made = Gate(to, user, password)
    with ThreadingHTTPServer(("127.0.0.1", 0), partial(_Handler, made)) as server:
        server.daemon_threads = True
        made.port = server.server_port
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
        thread.start()
        try:
            yield made
        finally:
            server.shutdown()
            thread.join()
