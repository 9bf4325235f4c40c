"""pipeline.progress: a bar on a terminal, few lines in a log."""

import os
import pty
import re
import subprocess
import sys
from pathlib import Path

import pytest

from pipeline.progress import progress


class _Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def test_a_log_gets_a_line_a_tenth_and_one_at_the_end(capfd: pytest.CaptureFixture[str]) -> None:
    clock = _Clock()
    with progress("read", 100, "images", clock=clock) as task:
        for _ in range(25):
            clock.now += 0.5
            task.advance()
    assert capfd.readouterr().err.splitlines() == [
        "read: 10 images of 100 images (10 %), 5 s",
        "read: 20 images of 100 images (20 %), 10 s",
        "read: 25 images of 100 images (25 %), 12 s",
    ]


def test_slow_work_gets_a_line_every_ten_seconds(capfd: pytest.CaptureFixture[str]) -> None:
    clock = _Clock()
    with progress("train", None, "steps", clock=clock) as task:
        for _ in range(25):
            clock.now += 1
            task.advance(2)
    lines = capfd.readouterr().err.splitlines()
    assert lines == ["train: 20 steps, 10 s", "train: 40 steps, 20 s", "train: 50 steps, 25 s"]


def test_no_amount_is_told_twice(capfd: pytest.CaptureFixture[str]) -> None:
    clock = _Clock()
    with progress("write", 100, "bytes", clock=clock) as task:
        for more in (100, 0, 0):
            clock.now += 12
            task.advance(more)
    assert capfd.readouterr().err == "write: 0.0 MB of 0.0 MB (100 %), 12 s\n"


def test_fast_work_gets_one_line(capfd: pytest.CaptureFixture[str]) -> None:
    clock = _Clock()
    with progress("fetch", 170_498_071, "bytes", done=70_498_071, clock=clock) as task:
        task.advance(50_000_000)
        clock.now += 0.9
        task.advance(50_000_000)
    assert capfd.readouterr().err == "fetch: 170.5 MB of 170.5 MB (100 %), 1 s\n"


def on_a_terminal(code: str) -> str:
    """What Python code shows on a terminal of 100 columns."""
    ours, theirs = pty.openpty()
    env = {**os.environ, "TERM": "xterm", "COLUMNS": "100"}
    root = Path(__file__).parents[1]
    process = subprocess.Popen([sys.executable, "-c", code], stderr=theirs, stdout=theirs, cwd=root, env=env)
    os.close(theirs)
    shown = b""
    try:
        while chunk := os.read(ours, 4096):
            shown += chunk
    except OSError:
        pass  # how Linux says that the other side of a terminal was closed
    os.close(ours)
    assert process.wait() == 0
    return shown.decode()


def test_a_terminal_gets_a_bar_with_notes_beside_percent_and_time() -> None:
    code = (
        "from pipeline.progress import progress, say\n"
        "with progress('read', 4, 'images') as task:\n"
        "    task.advance(3)\n"
        "    say('a word')\n"
        "    task.advance(1)\n"
        "with progress('tiny', 5, 'images', notes=True) as task:\n"
        "    task.note('loss 1.234, error 45.6 %, 789 images/s')\n"
        "    task.advance(5)\n"
    )
    text = on_a_terminal(code)
    for shown in ("4 images of 4 images (100 %)", "a word", "\x1b[", "tiny", "100 %", "left"):
        assert shown in text
    assert "loss 1.234, error 45.6 %, 789 images/s" in re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", text)
    assert "read: 4 images" not in text
    assert "5 images" not in text
