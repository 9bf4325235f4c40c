"""Fixtures for every test: a few real CIFAR-10 images, and a real HTTP server that can also misbehave."""

import os
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, NamedTuple

import photos
import pytest
import tiny
from filelock import FileLock
from hypothesis import settings
from project import Project, make_project

from pipeline.data.conversion import convert
from pipeline.data.readers import Splits

if "PYTEST_XDIST_WORKER" in os.environ:
    # Several test processes share the cores; OpenMP threads that wait for each other across them cost 3 times.
    os.environ.setdefault("OMP_NUM_THREADS", "1")

# Tests compute on the CPU, whatever the machine has: tests/gpu has a GPU of its own.
os.environ["CUDA_VISIBLE_DEVICES"] = ""

# Of the servers that tests start, which share those cores.
os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "60")

FIRST = (
    "runner/test_slurm",
    "evidence/test_shared_results",
    "gpu/test_on_a_gpu",
    "data/test_loader",
    "test_docs",
    "test_pipeline",
    "tracking/test_servers",
    "training/test_ranks",
    "cli/test_stage_train",
    "evidence/test_verify",
    "runner/test_jobs",
    "test_imagenet_run",
    "kernels/test_network_kernels",
    "runner/test_kills",
    "runner/test_many_processes",
)
"""Test files that, begun as the last, would let one process work alone at the end: each stays in one process."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The order in which processes take them, by --no-loadscope-reorder."""
    items.sort(key=lambda item: not item.nodeid.startswith(tuple(f"tests/{name}.py" for name in FIRST)))


SOAK_UNTIL = "WRN_PIPE_SOAK_UNTIL"
"""Unix time after which no soak test is begun: CI has 30 minutes, and some machines take twice as long as others."""


def pytest_runtest_setup(item: pytest.Item) -> None:
    if item.get_closest_marker("soak") and time.time() > float(os.environ.get(SOAK_UNTIL, "inf")):
        pytest.skip(f"not begun: {SOAK_UNTIL} is over, make soak runs it")


# A busy machine holds any process up for longer than Hypothesis's deadline. In CI the same examples are drawn each
# time: what others find by chance is for an issue, and must not refuse a change that has nothing to do with it.
settings.register_profile("ours", deadline=None, derandomize=SOAK_UNTIL in os.environ)
settings.load_profile("ours")


@pytest.fixture
def wrn_pipe(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Callable[..., "subprocess.CompletedProcess[str]"]:
    """`wrn-pipe WORDS` in this process, where torch is imported only once, and in its current folder."""
    from pipeline.cli.main import main

    def run(*words: str) -> "subprocess.CompletedProcess[str]":
        monkeypatch.setattr("sys.argv", ["wrn-pipe", *words])
        capsys.readouterr()
        with pytest.raises(SystemExit) as ended:
            main()
        return subprocess.CompletedProcess(words, int(ended.value.code or 0), *capsys.readouterr())

    return run


@pytest.fixture(scope="session")
def tiny_images() -> Splits:
    """See tiny.images."""
    return tiny.images()


@pytest.fixture(scope="session")
def tiny_raw(tiny_images: Splits, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny images as the download stage leaves them."""
    return photos.raw(tiny_images, tmp_path_factory.mktemp("tiny") / "raw")


@pytest.fixture(scope="session")
def tiny_beton(tiny_raw: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny images as .beton files, not to be changed: converted once for all test processes."""
    own = tmp_path_factory.getbasetemp()
    shared = own.parent if "PYTEST_XDIST_WORKER" in os.environ else own
    to = shared / "beton" / "cifar10-tiny-rgb"
    with FileLock(shared / "beton.lock"):
        if not to.exists():
            convert(tiny_raw, to, 10)
    return to


@pytest.fixture
def project(tmp_path: Path, tiny_beton: Path) -> Project:
    """A repository with one brief run on data that is there already; its archive's address leads nowhere."""
    return make_project(tmp_path / "project", beton=tiny_beton)


class Request(NamedTuple):
    """What a client asked for, and the status it was answered with."""

    path: str
    range: str | None
    status: int


Behaviour = Callable[["_Handler"], object]


@dataclass
class ArchiveServer:
    """A real HTTP server on 127.0.0.1 for the files of `folder`, with byte ranges, and a log of all requests."""

    folder: Path
    url: str
    requests: list[Request] = field(default_factory=list)
    planned: dict[str, list[Behaviour]] = field(default_factory=dict)
    closing: threading.Event = field(default_factory=threading.Event)

    def put(self, path: Path, name: str | None = None) -> str:
        """Copy a file into the served folder; return its URL."""
        name = name or path.name
        (self.folder / name).write_bytes(path.read_bytes())
        return f"{self.url}/{name}"

    def plan(self, url: str, *behaviours: Behaviour) -> None:
        """Answer the next requests for `url` with these, one each, and later ones honestly."""
        self.planned.setdefault(url.removeprefix(self.url), []).extend(behaviours)

    def status(self, code: int) -> Behaviour:
        return lambda handler: handler.send(code, b"", "text/plain")

    def stall_after(self, count: int) -> Behaviour:
        """Send `count` bytes of the answer, then nothing until the server is closed."""
        return lambda handler: (handler.send_range(stop_after=count), self.closing.wait(60))


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def __init__(self, archive_server: ArchiveServer, *arguments: Any) -> None:
        self.of = archive_server
        super().__init__(*arguments)

    def handle(self) -> None:
        with suppress(BrokenPipeError, ConnectionResetError):  # the client left, which some tests are about
            super().handle()

    def do_GET(self) -> None:
        if planned := self.of.planned.get(self.path):
            planned.pop(0)(self)
        elif (self.of.folder / self.path.lstrip("/")).is_file():
            self.send_range()
        else:
            self.send(404, b"no such file", "text/plain")

    def send(self, code: int, body: bytes, kind: str, stop_after: int | None = None, **headers: str) -> None:
        self.of.requests.append(Request(self.path, self.headers.get("Range"), code))
        self.send_response(code)
        for name, value in {"Content-Type": kind, "Content-Length": str(len(body)), **headers}.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        self.wfile.write(body[:stop_after])
        self.wfile.flush()
        self.close_connection = stop_after is not None

    def send_range(self, stop_after: int | None = None) -> None:
        content, asked = (self.of.folder / self.path.lstrip("/")).read_bytes(), self.headers.get("Range")
        kinds = {b"{": "application/json", b"<": "text/html"}
        kind = kinds.get(content[:1], "application/octet-stream")
        if asked is None:
            self.send(200, content, kind, stop_after)
            return
        start = int(asked.removeprefix("bytes=").removesuffix("-"))
        where = f"bytes {start}-{len(content) - 1}/{len(content)}"
        self.send(206, content[start:], kind, stop_after, Content_Range=where)

    def log_message(self, *_: Any) -> None:
        """Nothing on stderr, where the tests read what the program says; `requests` is the log."""


@contextmanager
def serve(folder: Path) -> Iterator[ArchiveServer]:
    archive_server = ArchiveServer(folder, "")
    with ThreadingHTTPServer(("127.0.0.1", 0), partial(_Handler, archive_server)) as server:
        server.daemon_threads = True
        server.block_on_close = False
        archive_server.url = f"http://127.0.0.1:{server.server_port}"
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        yield archive_server
        archive_server.closing.set()
        server.shutdown()
        thread.join()


@pytest.fixture
def archive_server(tmp_path: Path) -> Iterator[ArchiveServer]:
    """A running ArchiveServer with an empty folder."""
    folder = tmp_path / "served"
    folder.mkdir()
    with serve(folder) as server:
        yield server


@pytest.fixture(scope="session")
def tiny_entry() -> Iterator[dict[str, Any]]:
    """The params.yaml entry of the tiny dataset, whose archive a running server gives."""
    with serve(tiny.ARCHIVE.parent) as server:
        yield tiny.entry(f"{server.url}/{tiny.ARCHIVE.name}")
