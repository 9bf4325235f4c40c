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

    port: int
    answers: list[int] = field(default_factory=list)


@contextmanager
def gate(to: str, user: str, password: str) -> Iterator[Gate]:
    expected = "Basic " + base64.b64encode(f"{user}:{password}".encode()).decode()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def pass_on(self) -> None:
            content = self.rfile.read(int(self.headers.get("Content-Length", 0)))
            kept = {k: v for k, v in self.headers.items() if k.lower() in ("content-type", "accept")}
            if self.headers.get("Authorization") != expected:
                got = httpx.Response(401)
            else:
                try:
                    got = httpx.request(self.command, to + self.path, content=content, headers=kept, timeout=60)
                except httpx.TransportError:
                    got = httpx.Response(502)
            made.answers.append(got.status_code)
            self.send_response(got.status_code)
            self.send_header("Content-Type", got.headers.get("Content-Type", "text/plain"))
            self.send_header("Content-Length", str(len(got.content)))
            self.end_headers()
            self.wfile.write(got.content)

        do_GET = do_POST = do_PUT = do_PATCH = do_DELETE = pass_on  # noqa: N815

        def log_message(self, *_: Any) -> None:
            """Nothing on stderr."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        server.daemon_threads = True
        made = Gate(server.server_port)
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
        thread.start()
        try:
            yield made
        finally:
            server.shutdown()
            thread.join()
