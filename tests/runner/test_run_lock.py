"""One process at a time trains a run: the others are told who."""

import json
import os
import platform
import subprocess
import sys
import time
from pathlib import Path

import pytest
from project import file_size_limit

from pipeline.errors import UserError, WrnPipeError
from pipeline.runner import run_lock
from pipeline.runner.run_lock import discard, discard_unless_locked, hold, living_owner

ROOT = Path(__file__).resolve().parents[2]
HOLD = """
import sys, time
from pathlib import Path
from pipeline.runner import run_lock
run_lock._ENDING_S = 0.1
with run_lock.hold(Path(sys.argv[1]), "tiny", wait=sys.argv[2] == "wait"):
    print("held", flush=True)
    sys.stdin.readline()
"""


def start(scratch: Path, how: str = "leave") -> "subprocess.Popen[str]":
    command = [sys.executable, "-c", HOLD, str(scratch), how]
    return subprocess.Popen(command, cwd=ROOT, stdin=-1, stdout=-1, stderr=-1, text=True)


def said(process: "subprocess.Popen[str]") -> str:
    assert process.stdout is not None
    return process.stdout.readline()


def test_the_second_is_told_who_trains_the_run_and_may_wait(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(run_lock, "_ENDING_S", 0.1)
    scratch = tmp_path / "fingerprint"
    first = start(scratch)
    assert said(first) == "held\n"
    with pytest.raises(UserError) as error, hold(scratch, "tiny"):
        pass
    who = f"process {first.pid} on {platform.node()} since {time.strftime('%Y-%m-')}"
    assert f"run tiny is being trained by {who}" in error.value.what
    assert sys.executable in error.value.what
    assert "wrn-pipe stage train tiny --wait" in error.value.remedy
    assert f"kill {first.pid}" in error.value.remedy
    assert "its state is saved" in error.value.remedy
    (scratch / "epoch-0001-step-000000.x.safetensors").parent.mkdir()
    (scratch / "epoch-0001-step-000000.x.safetensors").touch()
    discard_unless_locked(scratch, "tiny")
    assert len(list(scratch.iterdir())) == 1, "what another process trains is not swept away"
    second = start(scratch, "wait")
    assert second.stderr is not None
    assert f"trained by process {first.pid}" in second.stderr.readline()
    first.communicate("\n")
    assert said(second) == "held\n"
    second.communicate("\n")
    discard_unless_locked(scratch, "tiny")
    assert list(tmp_path.iterdir()) == []


def test_who_lives_is_told_without_turning_anybody_away_and_a_killed_owner_is_recognised(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """Whatever its note says: its process id may be in use again."""
    scratch, note = tmp_path / "fingerprint", tmp_path / "fingerprint.owner.json"
    assert living_owner(scratch) is None
    first = start(scratch)
    assert said(first) == "held\n"
    who = living_owner(scratch)
    assert who is not None
    assert who.pid == first.pid
    first.kill()
    first.communicate()
    note.write_text(json.dumps({**json.loads(note.read_text()), "pid": os.getppid()}))
    assert living_owner(scratch) is None
    with hold(scratch, "tiny"):
        assert json.loads(note.read_text())["pid"] == os.getpid()
    assert f"process {os.getppid()} on {platform.node()}" in capfd.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_a_full_disk_is_explained_before_anything_is_trained(tmp_path: Path) -> None:
    with (
        file_size_limit(0),
        pytest.raises(WrnPipeError, match=r"run a: cannot write in .* what was saved") as caught,
        hold(tmp_path / "fingerprint", "a"),
    ):
        pass
    assert "make room there" in caught.value.remedy
    with hold(tmp_path / "fingerprint", "a"):
        pass


def test_discarding_leaves_what_is_not_ours(tmp_path: Path) -> None:
    scratch = tmp_path / "fingerprint"
    scratch.mkdir()
    for name in (
        "epoch-0001-step-0.x.safetensors",
        ".epoch-0002-step-0.y.safetensors.part",
        "heartbeat.json",
        "notes.txt",
    ):
        (scratch / name).touch()
    discard(scratch)
    assert [path.name for path in scratch.iterdir()] == ["notes.txt"]
