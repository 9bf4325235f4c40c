"""A machine that is hostile to fetching, and the count of all such cases: tables of servers, files and this one.

NETWORK stands in test_fetch.py, ARCHIVES, NO_BATCH and PACKAGES in test_hostile_files.py, BAD (SVHN's files) in
test_svhn.py, proxies in test_proxy.py, npm's registry in test_fetch_npm.py.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from pipeline.data.fetch import fetch_archive
from pipeline.data.readers import Splits
from pipeline.dataset_config import DATA_DIR
from pipeline.errors import UserError
from tests.data.answers import CONTENT, MD5, QUICK, SIZE, drop
from tests.data.test_fetch import NETWORK
from tests.data.test_hostile_files import ARCHIVES, NO_BATCH, PACKAGES
from tests.data.test_svhn import BAD

if TYPE_CHECKING:
    from tests.conftest import ArchiveServer

ROOT = Path(__file__).parents[2]
NAMESPACE = ["unshare", "--user", "--map-root-user", "--mount"]
"""Runs a command that may mount file systems of its own, which nobody else sees."""


def test_the_tables_are_as_long_as_promised() -> None:
    tables = {"network": NETWORK, "archive": ARCHIVES, "batch": NO_BATCH, "package": PACKAGES, "svhn": BAD}
    assert len(NETWORK) >= 40
    assert sum(map(len, tables.values())) >= 100


@pytest.fixture
def url(archive_server: ArchiveServer) -> str:
    (archive_server.folder / "a.tar.gz").write_bytes(CONTENT)
    return f"{archive_server.url}/a.tar.gz"


def _child(script: str, *arguments: object, prefix: tuple[str, ...] = ()) -> list[str]:
    """Run a script that may `fetch()` the file to `to`; the lines that it prints."""
    head = """
import os, resource, subprocess, sys
from pathlib import Path
from pipeline.dataset_config import SourceError
from pipeline.data.fetch import fetch_archive
from pipeline.errors import UserError
from tests.data.answers import CONTENT, MD5, QUICK, SIZE
url, folder = sys.argv[1], Path(sys.argv[2])
to = folder / "downloads" / "a.tar.gz"
def fetch():
    try:
        fetch_archive(url, MD5, to, SIZE, QUICK)
        print("arrived" if to.read_bytes() == CONTENT else "wrong")
    except UserError as error:
        print(error.what.replace(str(folder), ""), "|", error.remedy)
"""
    command = [*prefix, sys.executable, "-c", head + script, *map(str, arguments)]
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, env=env, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


def test_a_full_disk_keeps_what_came_and_a_read_only_one_is_told_as_such(
    archive_server: ArchiveServer, url: str, tmp_path: Path
) -> None:
    """A file system of 256 kB in memory: too small, then larger, then read-only."""
    if not shutil.which("unshare") or subprocess.run([*NAMESPACE, "true"], capture_output=True, check=False).returncode:
        pytest.skip("this machine lets nobody mount a file system of their own (unshare --user --mount)")
    script = """
def mount(options):
    subprocess.run(["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(folder)], check=True)
mount("size=256k")
fetch()
print((to.parent / "a.tar.gz.part").stat().st_size)
mount("remount,size=4m")
fetch()
to.write_bytes(b"damaged")
mount("remount,ro")
fetch()
mount("remount,rw")
to.unlink()
to.parent.rmdir()
mount("remount,ro")
fetch()
"""
    full, kept, arrived, no_write, no_folder = _child(script, url, tmp_path, prefix=tuple(NAMESPACE))
    assert full.startswith("disk full while writing /downloads/a.tar.gz.part: 0 MB free | free some space")
    assert 200_000 < int(kept) <= 2**18
    assert arrived == "arrived"
    assert [request.range for request in archive_server.requests[:2]] == [None, f"bytes={kept}-"]
    assert no_write.startswith(
        "cannot write /downloads/a.tar.gz.part: Read-only file system | make that place writable"
    )
    assert no_folder.startswith("cannot write /downloads/a.tar.gz.part: Read-only file system | ")


def test_a_folder_that_is_anothers_is_told_as_such(url: str) -> None:
    """As the user nobody where the tests run as root, who may write anywhere."""
    script = """
if os.geteuid() == 0:
    os.setuid(65534)
fetch()
"""
    with tempfile.TemporaryDirectory() as folder:
        Path(folder).chmod(0o555)
        (said,) = _child(script, url, folder)
        Path(folder).chmod(0o755)
    assert said == "cannot write /downloads/a.tar.gz.part: Permission denied | make that place writable"


def test_a_limit_on_the_size_of_files_is_told_as_such(url: str, tmp_path: Path) -> None:
    script = "resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))\nfetch()\n"
    (said,) = _child(script, url, tmp_path)
    assert said.startswith(
        "/downloads/a.tar.gz.part exceeds the largest file allowed here | raise the limit (ulimit -f)"
    )


def test_a_device_without_space_is_a_full_disk(url: str, tmp_path: Path) -> None:
    if not Path("/dev/full").exists():
        pytest.skip("needs /dev/full, a device on which every write fails for want of space")
    (tmp_path / "a.tar.gz.part").symlink_to("/dev/full")
    with pytest.raises(UserError, match=r"disk full while writing .*a\.tar\.gz\.part"):
        fetch_archive(url, MD5, tmp_path / "a.tar.gz", SIZE, QUICK)


def test_a_file_in_place_of_a_folder_and_a_folder_in_place_of_the_file(url: str, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("a file where a folder should be")
    with pytest.raises(UserError, match=r"cannot write .*: (File exists|Not a directory)"):
        fetch_archive(url, MD5, tmp_path / "file" / "a.tar.gz", SIZE, QUICK)
    (tmp_path / "a.tar.gz").mkdir()
    with pytest.raises(UserError, match=r"cannot write .*: Is a directory"):
        fetch_archive(url, MD5, tmp_path / "a.tar.gz", SIZE, QUICK)


ACQUIRE = """
import sys
from pathlib import Path
from pipeline.data.dataset_download import acquire
from pipeline.dataset_config import Dataset
acquire("tiny", Dataset.model_validate_json(sys.argv[1]), Path("data/raw/tiny"))
"""


@pytest.mark.parametrize("killed", [False, True])
def test_two_processes_take_turns_even_when_the_first_is_killed(
    killed: bool,
    archive_server: ArchiveServer,
    tiny_dataset_entry: Callable[[str], dict[str, Any]],
    tiny_archive: Path,
    tiny_images: Splits,
    tmp_path: Path,
) -> None:
    address = archive_server.put(tiny_archive)
    entry = tiny_dataset_entry(address)
    half, asked, go_on = len(tiny_archive.read_bytes()) // 2, threading.Event(), threading.Event()

    def wait_midway(handler: Any) -> None:
        drop(half)(handler) if killed else None
        asked.set()
        go_on.wait(60)
        if not killed:
            handler.send_range()

    archive_server.plan(address, wait_midway)
    command = [sys.executable, "-c", ACQUIRE, json.dumps(entry)]
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    first = subprocess.Popen(command, cwd=tmp_path, env=env, stderr=subprocess.PIPE, text=True)
    assert asked.wait(120)
    second = subprocess.Popen(command, cwd=tmp_path, env=env, stderr=subprocess.PIPE, text=True)
    try:
        assert second.stderr is not None
        assert second.stderr.readline() == "tiny: another process is downloading it; waiting\n"
        assert len(archive_server.requests) == killed
        if killed:
            first.kill()
        go_on.set()
        assert (first.wait(120), second.wait(120)) == (-9 if killed else 0, 0)
    finally:
        go_on.set()
        for process in (first, second):
            process.kill()
            process.communicate()
    images = np.load(tmp_path / "data" / "raw" / "tiny" / "train_images.npy")
    assert np.array_equal(images, tiny_images["train"][0])
    assert not list(tmp_path.rglob("*.part"))


def test_a_disk_that_fills_while_publishing_leaves_nothing_half_written(
    tiny_dataset_entry: Callable[[str], dict[str, Any]], tiny_archive: Path, tmp_path: Path
) -> None:
    """By a limit on the size of files that the labels are below and the images above."""
    entry = tiny_dataset_entry("http://127.0.0.1:1/cifar-10-tiny.tar.gz")
    entry["sources"].insert(0, {"folder": True})
    script = """
import resource
from pipeline.errors import exit_on_error
resource.setrlimit(resource.RLIMIT_FSIZE, (700_000, 700_000))
with exit_on_error():
"""
    script += "".join(f"    {line}\n" for line in ACQUIRE.splitlines())
    env = {**os.environ, "PYTHONPATH": str(ROOT), DATA_DIR: str(tiny_archive.parent)}
    done = subprocess.run(
        [sys.executable, "-c", script, json.dumps(entry)], cwd=tmp_path, env=env, capture_output=True, text=True
    )
    assert done.returncode == 2, done.stderr
    assert done.stderr.splitlines()[-2] == "error: data/raw/tiny exceeds the largest file allowed here"
    assert [path.name for path in tmp_path.rglob("*") if path.is_file()] == ["tiny.lock"]
    assert not (tmp_path / "data" / "raw" / "tiny").exists()
