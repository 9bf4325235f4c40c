"""One process at a time trains a run and the others are told who; how a training hears a signal before its steps and
while it speaks, by real signals to real processes."""

import json
import os
import platform
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from project import ROOT, file_size_limit

from pipeline.errors import UserError, WrnPipeError
from pipeline.runner import attempts
from pipeline.runner.attempts import discard, discard_unless_locked, hold, living_owner

HOLD = """
import sys, time
from pathlib import Path
from pipeline.runner import attempts
attempts._ENDING_S = 0.1
with attempts.hold(Path(sys.argv[1]), "tiny", wait=sys.argv[2] == "wait"):
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
    monkeypatch.setattr(attempts, "_ENDING_S", 0.1)
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
    scratch.mkdir()
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
    assert (who := living_owner(scratch))
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
    for name in ("epoch-1-step-0.x.safetensors", ".epoch-2-step-0.y.safetensors.part", "heartbeat.json", "notes.txt"):
        (scratch / name).touch()
    discard(scratch)
    assert [path.name for path in scratch.iterdir()] == ["notes.txt"]


IMPORTING = """
import os, signal, sys, threading, time
from pipeline.errors import InterruptedTrainingError
from pipeline.runner.interruptions import stop_after_step, stop_training_at_once

def later():
    time.sleep(float(sys.argv[1]))
    os.kill(os.getpid(), signal.SIGTERM)

try:
    with stop_training_at_once("a-run"):
        threading.Thread(target=later).start()
        import pipeline.training.train_run
        with stop_after_step() as stop:
            until = time.monotonic() + 20
            while not stop and time.monotonic() < until:  # the steps
                time.sleep(0.01)
            sys.exit("after a step" if stop else "it was not heard")
except InterruptedTrainingError as error:
    sys.exit(error.what)
"""


def test_a_signal_while_torch_is_imported_is_not_lost() -> None:
    """torch takes what is raised there for a failure to load a library, and goes on without."""
    children = [
        subprocess.Popen([sys.executable, "-c", IMPORTING, str(delay)], stderr=subprocess.PIPE, text=True)
        for delay in (0.1, 0.4)
    ]
    said = [child.communicate(timeout=600)[1].strip().splitlines()[-1] for child in children]
    at_once = "SIGTERM: stopped before or after the training's steps, nothing is lost"
    assert set(said) <= {at_once, "after a step"}, said


WORKING = """
import os, signal, sys
from contextlib import contextmanager, suppress
from pipeline.errors import StoppedError
from pipeline.runner.interruptions import stop_at_once

def signalled():
    os.kill(os.getpid(), signal.SIGTERM)

@contextmanager
def cleaning():
    try:
        yield
    finally:
        with suppress(ValueError):  # an error of the clean-up's own
            try:
                raise ValueError
            finally:
                signalled()
        signalled()
        print("cleaned up")

class Dropping:
    def __del__(self):
        signalled()

sys.unraisablehook = lambda dropped: print("dropped", dropped.exc_type.__name__)
try:
    with stop_at_once(lambda: "nothing is left", "again"), cleaning():
        Dropping()
        print("goes on")
        signalled()
        print("goes on and on")
except StoppedError as error:
    print(error.what)
"""


def test_a_signal_is_heard_where_the_one_before_was_dropped_and_not_while_cleaning_up() -> None:
    done = subprocess.run([sys.executable, "-c", WORKING], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines() == [
        "dropped KeyboardInterrupt",
        "goes on",
        "cleaned up",
        "SIGTERM: stopped; nothing is left",
    ]


SPEAKING = """
import sys
from pipeline.progress import say
from pipeline.runner.interruptions import stop_after_step

with stop_after_step() as stop:
    for _ in range(1000):
        say("x" * 1000)
    sys.exit(f"asked by {stop}")
"""


def test_a_signal_while_nobody_takes_what_a_training_says_does_not_end_it() -> None:
    """As under a pager: Python lets no second line begin while the first is being written."""
    buffered = {name: value for name, value in os.environ.items() if name != "PYTHONUNBUFFERED"}
    command = [sys.executable, "-c", SPEAKING]
    with subprocess.Popen(command, env=buffered, stderr=subprocess.PIPE, text=True) as child:
        assert child.stderr is not None
        assert child.stderr.read(1) == "x"
        time.sleep(0.3)  # now the pipe is full
        child.send_signal(signal.SIGTERM)
        time.sleep(0.3)
        assert child.stderr.read().splitlines()[-1] == f"asked by {[int(signal.SIGTERM)]}"
