"""wrn-pipe plan on a terminal, where it asks before it writes."""

import os
import pty
import select
import subprocess
import sys
from pathlib import Path

import pytest
from project import Project, copy_repository

COMMAND = (
    *(sys.executable, "-c", "from pipeline.cli.main import main; main()"),
    *("plan", "--paper-table", "4", "--row", "WRN-16-8", "--dataset", "cifar100", "--seeds", "1"),
)
RUN = "cifar100-wrn-16-8-paper-zca-s1"
"""Which it adds: on a dataset and by a protocol that params.yaml lacks."""


@pytest.fixture
def project(tmp_path: Path) -> Project:
    return copy_repository(tmp_path, "params.yaml", "dvc.lock")


def on_a_terminal(project: Project, answer: str) -> str:
    """Run COMMAND on a pseudo-terminal, answer its question, return what it printed."""
    master, slave = pty.openpty()
    with subprocess.Popen(COMMAND, cwd=project.root, stdin=slave, stdout=slave, stderr=slave) as child:
        os.close(slave)
        printed, answered = "", False
        while select.select([master], [], [], 120)[0]:
            try:
                read = os.read(master, 65536)
            except OSError:  # Linux's end of file on a terminal
                break
            if not read:
                break
            printed += read.decode()
            if not answered and "[y/N]" in printed:
                answered = True
                os.write(master, answer.encode())
        assert child.wait(60) == 0
    os.close(master)
    assert answered, printed
    return printed


@pytest.mark.slow
@pytest.mark.parametrize("answer", ["y", "n"])
def test_a_terminal_is_asked_once(project: Project, answer: str) -> None:
    before = (project.root / "params.yaml").read_text()
    printed = on_a_terminal(project, f"{answer}\n")
    assert f"{RUN}: {{" in printed.partition("[y/N]")[0], "the difference stands before the question"
    after = (project.root / "params.yaml").read_text()
    assert RUN in after if answer == "y" else after == before
    assert ("params.yaml is unchanged." in printed) is (answer == "n")
