"""pipeline.progress: a bar on a terminal, few lines in a log."""

import os
import pty
import re
import subprocess
import sys
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from pipeline.progress import progress

# Label, total, unit and what is done before; then each advance, the seconds it takes, and the lines.
LOGS: dict[str, tuple[Any, list[int], float, list[str]]] = {
    "slow work gets a line every ten seconds": (
        ("train", None, "steps"),
        [2] * 25,
        1.0,
        [f"train: {2 * s} steps, {s} s" for s in (10, 20, 25)],
    ),
    "no amount is told twice": (
        ("write", 100, "bytes"),
        [100, 0, 0],
        12.0,
        ["write: 0.0 MB of 0.0 MB (100 %), 12 s"],
    ),
    "fast work gets one line": (
        ("fetch", 170_498_071, "bytes", 70_498_071),
        [50_000_000] * 2,
        0.45,
        ["fetch: 170.5 MB of 170.5 MB (100 %), 1 s"],
    ),
}


@pytest.mark.parametrize("log", LOGS)
def test_a_log_gets_few_lines(log: str, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    work, each, seconds, expected = LOGS[log]
    now = 0.0
    monkeypatch.setattr("time.monotonic", lambda: now)
    with progress(*work) as task:
        for more in each:
            now += seconds
            task.advance(more)
    assert capfd.readouterr().err.splitlines() == expected


CODE = """
from pipeline.progress import progress, say
with progress('read', 4, 'images') as task:
    task.advance(3)
    say('a word')
    task.advance(1)
with progress('tiny', 5, 'images', notes=True) as task:
    task.note('loss 1.234, error 45.6 %, 789 images/s')
    task.advance(5)
"""


def test_a_terminal_gets_a_bar_with_notes_beside_percent_and_time() -> None:
    ours, theirs = pty.openpty()
    env = {**os.environ, "TERM": "xterm", "COLUMNS": "100"}
    root = Path(__file__).parents[1]
    process = subprocess.Popen([sys.executable, "-c", CODE], stderr=theirs, stdout=theirs, cwd=root, env=env)
    os.close(theirs)
    text = ""
    with suppress(OSError):  # how Linux says that the other side of a terminal was closed
        while chunk := os.read(ours, 4096):
            text += chunk.decode(errors="replace")
    os.close(ours)
    assert process.wait() == 0
    for shown in ("4 images of 4 images (100 %)", "a word", "\x1b[", "tiny", "100 %", "left"):
        assert shown in text
    assert "loss 1.234, error 45.6 %, 789 images/s" in re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", text)
    assert "read: 4 images" not in text
    assert "5 images" not in text
