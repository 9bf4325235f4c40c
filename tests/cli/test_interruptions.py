"""Ctrl-C and SIGTERM, by real signals to the real commands: two lines, the exit code, and nothing left behind."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import psutil
import pytest
import tiny
from project import BIN, Project, make_project, told

if TYPE_CHECKING:
    from tests.conftest import ArchiveServer

pytestmark = pytest.mark.slow


class Ended(NamedTuple):
    """How a command ended, and what it printed."""

    code: int
    lines: list[str]


def interrupted(
    project: Project,
    signum: signal.Signals,
    under_way: Callable[[], bool],
    *arguments: str,
    **environment: str,
) -> Ended:
    """Start `wrn-pipe` in a session of its own, and send the signal when `under_way`.

    SIGINT goes to all of it, as a terminal's Ctrl-C does, the others to the command alone, as a scheduler or a user
    sends them.
    """
    log = project.log
    running = project.start(log, *arguments, **{"MLFLOW_TRACKING_URI": "none://", **environment})
    try:
        until = time.monotonic() + 120
        while not (listens(running.pid) and under_way()):
            assert running.poll() is None, log.read_text()
            assert time.monotonic() < until, log.read_text()
            time.sleep(0.02)
        if signum == signal.SIGINT:
            os.killpg(running.pid, signum)
        else:
            running.send_signal(signum)
        code = running.wait(60)
        until = time.monotonic() + 60  # multiprocessing's tracker of shared memory ends when its parent has
        while left := living(running.pid):
            assert time.monotonic() < until, left
            time.sleep(0.05)
    except BaseException:  # what did not end by itself would go on for ever
        with suppress(ProcessLookupError):
            os.killpg(running.pid, signal.SIGKILL)
        raise
    return Ended(code, log.read_text().splitlines())


def listens(pid: int) -> bool:
    """Whether the command has come to answering signals: before, Python's own imports end as they do anywhere."""
    status = Path(f"/proc/{pid}/status").read_text()
    caught = next(int(line.split()[1], 16) for line in status.splitlines() if line.startswith("SigCgt:"))
    return bool(caught >> (signal.SIGTERM - 1) & 1)


def living(session: int) -> list[str]:
    found = []
    for process in psutil.process_iter(["cmdline", "status"]):
        try:
            if os.getsid(process.pid) == session and process.info["status"] != psutil.STATUS_ZOMBIE:
                found.append(" ".join(process.info["cmdline"] or ()))
        except ProcessLookupError:
            continue
    return found


AT_IMPORT = """
import os, pathlib, signal, sys, time
class Finder:
    def find_spec(name, path=None, target=None):
        if name == {imported!r}:
            {action}
if any({program!r} in word for word in sys.orig_argv):
    del os.environ["PYTHONPATH"]  # which the installed command refuses
    sys.meta_path.insert(0, Finder)
"""


def at_import(program: str, imported: str, action: str, folder: Path) -> dict[str, str]:
    """An environment where a program does something in its import of `imported`."""
    (folder / "site").mkdir()
    text = AT_IMPORT.format(program=program, imported=imported, action=action)
    (folder / "site" / "sitecustomize.py").write_text(text)
    return {"PYTHONPATH": str(folder / "site")}


def check_stop(signum: signal.Signals, ended: Ended, kept: str, stage: str) -> None:
    """The two lines, which are the last unless DVC adds that a stage has failed, and the exit code."""
    text = "\n".join(ended.lines)
    assert ended.code == 128 + signum, text
    (at,) = (i for i, line in enumerate(ended.lines) if line.startswith("error: "))
    assert ended.lines[at] == f"error: {signum.name}: stopped; {kept}"
    assert ended.lines[at + 1] == f"  fix: continue with: wrn-pipe {stage}"
    assert "Traceback" not in text
    assert "leaked" not in text
    assert all(line.startswith("ERROR: failed to reproduce") for line in ended.lines[at + 2 :] if line), text


@pytest.mark.parametrize(
    ("signum", "command"), [(signal.SIGINT, "repro"), pytest.param(signal.SIGTERM, "stage", marks=pytest.mark.soak)]
)
def test_a_download_that_is_stopped_goes_on_where_it_was(
    signum: signal.Signals, command: str, tmp_path: Path, archive_server: ArchiveServer
) -> None:
    url = archive_server.put(tiny.ARCHIVE)
    archive_server.plan(url, archive_server.stall_after(300_000))
    project = make_project(tmp_path / "project", tiny.entry(url))
    part = project.root / "scratch/downloads/cifar10-tiny" / f"{tiny.ARCHIVE.name}.part"
    stage = "download@cifar10-tiny"
    words = ("stage", "download", "cifar10-tiny") if command == "stage" else ("repro", stage)
    ended = interrupted(project, signum, lambda: part.exists() and part.stat().st_size > 100_000, *words)
    arrived = part.stat().st_size
    assert 100_000 < arrived <= 300_000
    kept = f"{arrived / 1e6:.1f} MB have arrived in scratch/downloads/cifar10-tiny and are not fetched again"
    check_stop(signum, ended, kept, f"repro {stage}")
    assert not list((project.root / "data").glob("**/*"))
    told(project.cli("repro", stage))
    assert archive_server.requests[-1].range == f"bytes={arrived}-"
    assert len(list((project.root / "data/raw/cifar10-tiny").iterdir())) == 4


@pytest.mark.parametrize(
    ("signum", "program", "imported"),
    [
        (signal.SIGTERM, "stages.download", "pipeline.data.dataset_download"),
        pytest.param(signal.SIGINT, "dvc_patches", "dvc", marks=pytest.mark.soak),
    ],
)
def test_a_stage_or_dvc_that_is_only_starting_says_nothing_and_repro_speaks_for_it(
    signum: signal.Signals, program: str, imported: str, project: Project, tmp_path: Path
) -> None:
    halted = tmp_path / "halted"
    environment = at_import(program, imported, f"pathlib.Path({str(halted)!r}).touch(); time.sleep(600)", tmp_path)
    ended = interrupted(project, signum, halted.exists, "repro", "download", **environment)
    check_stop(signum, ended, "no stage was at work, and what is done stays done", "repro download")


@pytest.mark.soak
def test_what_fails_by_a_signal_is_not_gone_on_from(tmp_path: Path, archive_server: ArchiveServer) -> None:
    """With --keep-going DVC takes a stage that was stopped for one that failed, and starts the next."""
    project = make_project(tmp_path / "project")
    first, second = (archive_server.put(tiny.ARCHIVE, f"{name}.tar.gz") for name in ("first", "second"))
    for url in (first, second):
        archive_server.plan(url, *[archive_server.stall_after(300_000)] * 9)
    project.edit(lambda params: params["datasets"].update(a=tiny.entry(first), b=tiny.entry(second)))
    parts = project.root / "scratch/downloads"  # of the one that DVC begins with, which may be either
    words = ("repro", "--keep-going", "download@a", "download@b")
    ended = interrupted(project, signal.SIGINT, lambda: any(parts.glob("[ab]/*.part")), *words)
    assert ended.code == 128 + signal.SIGINT, ended.lines
    assert len({request.path for request in archive_server.requests}) == 1, ended.lines


def test_ctrl_c_while_the_command_itself_is_imported_is_quiet(tmp_path: Path) -> None:
    stop = at_import("wrn-pipe", "typer", "os.kill(os.getpid(), signal.SIGINT)", tmp_path)
    # These tests may themselves run where it is ignored, as by a shell's background job.
    for answer, code, shown in (("default", -signal.SIGINT, ""), ("ignore", 0, "Usage: wrn-pipe")):
        words = ["env", f"--{answer}-signal=INT", str(BIN / "wrn-pipe"), "--help"]
        ended = subprocess.run(words, env={**os.environ, **stop}, capture_output=True, text=True, check=False)
        assert (ended.returncode, ended.stderr) == (code, "")
        assert shown in ended.stdout
