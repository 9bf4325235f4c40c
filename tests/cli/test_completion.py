"""What the shell offers at Tab, asked as bash asks it, and what a bash at a terminal makes of that."""

import os
import pty
import select
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from typer.testing import CliRunner

from pipeline.cli import completion
from pipeline.cli.main import app

ROOT = Path(__file__).resolve().parents[2]
RUN = "cifar10-wrn-40-1-quick-s1"


def offered(typed: str) -> list[str]:
    """The words after `wrn-pipe <typed>`, whose last word is being completed."""
    words = ["wrn-pipe", *typed.split(" ")]
    environment = {"_WRN_PIPE_COMPLETE": "complete_bash", "COMP_WORDS": " ".join(words)}
    ended = CliRunner().invoke(
        app, [], prog_name="wrn-pipe", env={**environment, "COMP_CWORD": str(len(words) - 1)}, catch_exceptions=False
    )
    return ended.stdout.split()


@pytest.mark.parametrize(
    ("typed", "some"),
    [
        ("sta", ["status", "stage"]),
        ("repro cifar10-", [RUN]),
        ("repro train", ["train"]),
        ("repro train@", [f"train@{RUN}"]),
        ("stage ev", ["evaluate"]),
        ("stage train ", [RUN]),
        ("stage convert ", ["cifar10-rgb"]),
        ("compare --run ", [RUN]),
        ("compare --paper-table f", ["figure-4"]),
        ("compare --dataset ", ["cifar10", "cifar100", "svhn", "imagenet"]),
        ("plan --protocol paper-z", ["paper-zca"]),
        ("plan --row WRN-16-", ["WRN-16-8", "WRN-16-10"]),
        ("estimate --paper-table ", ["4", "all"]),
        ("data verify ", ["cifar10"]),
        ("net WRN-28-1", ["WRN-28-10"]),
        ("show ", [RUN]),
        ("explain --row WRN-16-", ["WRN-16-8"]),
        ("explain --paper-table ", ["4", "figure-4", "text"]),
        ("verify --deeper ", [RUN]),
    ],
)
def test_words_of_the_plan_and_the_paper(typed: str, some: list[str]) -> None:
    words = offered(typed)
    assert set(some) <= set(words)
    assert all(word.startswith(typed.split(" ")[-1]) for word in words)
    assert len(words) == len(set(words))


def test_a_stage_offers_only_what_it_works_on() -> None:
    assert offered("stage tabulate ") == ["4"]
    assert offered("stage summarize ") == []


def test_explain_does_not_offer_all_tables_which_it_refuses() -> None:
    assert set(offered("compare --paper-table ")) - set(offered("explain --paper-table ")) == {"all"}


def test_the_stages_are_those_of_dvc_yaml() -> None:
    from ruamel.yaml import YAML

    assert list(completion.STAGES) == list(YAML(typ="safe", pure=True).load(ROOT / "dvc.yaml")["stages"])


def test_a_broken_plan_offers_nothing_and_says_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "params.yaml").write_text("runs: [")
    assert offered("repro c") == []


def test_a_shell_is_answered_quickly() -> None:
    """In a process of its own, which loads nothing heavy."""
    code = (
        "import sys; sys.argv[0] = 'wrn-pipe'\nfrom pipeline.cli.main import app\n"
        "try:\n    app()\nfinally:\n    print('heavy:', {'torch', 'mlflow', 'pandas', 'numba'} & set(sys.modules))"
    )
    environment = {"_WRN_PIPE_COMPLETE": "complete_bash", "COMP_WORDS": "wrn-pipe repro cifar", "COMP_CWORD": "2"}
    ran = subprocess.run(
        [sys.executable, "-c", code],
        cwd=ROOT,
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        check=True,
    )
    assert ran.stdout.splitlines() == [RUN, "heavy: set()"]


LINE = ("\x01", "\x02")
"""What the line stands between when the shell is asked for it."""


@pytest.fixture(scope="module")
def line_of(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[[str], str]]:
    """The line that an interactive bash at a terminal has after keys are typed into it."""
    command = tmp_path_factory.mktemp("bin") / "wrn-pipe"
    code = "from pipeline.cli.main import main; main()"
    command.write_text(f"#!/bin/sh\nexec {sys.executable} -c '{code}' \"$@\"\n")
    command.chmod(0o755)
    ours = {"PATH": f"{command.parent}{os.pathsep}{os.environ['PATH']}", "TERM": "dumb", "PYTHONPATH": str(ROOT)}
    terminal, theirs = pty.openpty()
    bash = subprocess.Popen(
        ["bash", "--norc", "--noprofile", "-i"],
        cwd=ROOT,
        env={**os.environ, **ours, "HISTFILE": ""},
        **dict.fromkeys(("stdin", "stdout", "stderr"), theirs),
        start_new_session=True,
    )
    os.close(theirs)

    def typed(keys: str) -> str:
        os.write(terminal, keys.encode() + b"\x18l")
        shown, until = "", time.monotonic() + 60
        while LINE[1] not in shown:
            assert select.select([terminal], [], [], until - time.monotonic())[0], shown
            shown += os.read(terminal, 4096).decode()
        return shown.split(LINE[0])[-1].split(LINE[1])[0]

    show = r"""bind -x '"\C-xl": printf "\\1%s\\2" "$READLINE_LINE"; READLINE_LINE='"""
    os.write(terminal, f"source <(wrn-pipe --show-completion)\n{show}\n".encode())
    assert typed("") == ""
    yield typed
    os.close(terminal)  # hangs up
    bash.wait(10)


@pytest.mark.parametrize(
    ("typed", "line"),
    [
        ("repro train@ci", f"repro train@{RUN} "),
        ("repro download@", "repro download@cifar10 "),
        ("repro 'train@ci", f"repro 'train@{RUN}' "),
        ("repro cifar10-", f"repro {RUN} "),
        ("repro --dry  train@ci", f"repro --dry  train@{RUN} "),
        ("compare --run=ci", f"compare --run={RUN} "),
        ('compare --run="ci', f'compare --run="{RUN}" '),
        ("plan --row WRN-40-2-", r"plan --row WRN-40-2-B\("),
        (r"net WRN-40-2-B\(3,1,", r"net WRN-40-2-B\(3,1,1\) "),
        ("net 'WRN-40-2-B(3,3,3,", "net 'WRN-40-2-B(3,3,3,3)' "),
        ("compare --output Makef", "compare --output Makefile "),
        ("repro nothing@like", "repro nothing@like"),
    ],
)
def test_a_bash_inserts_words_that_it_reads_back_as_they_are(
    line_of: Callable[[str], str], typed: str, line: str
) -> None:
    assert line_of(f"wrn-pipe {typed}\t") == f"wrn-pipe {line}"


def test_a_bash_completes_up_to_the_cursor(line_of: Callable[[str], str]) -> None:
    back = "\x02" * len(" --jobs 2")
    assert (
        line_of(f"cd x; wrn-pipe repro --dry train@cif --jobs 2{back}\t")
        == f"cd x; wrn-pipe repro --dry train@{RUN} --jobs 2"
    )


def test_a_bash_that_does_not_cut_words_at_those_characters_is_served_too(line_of: Callable[[str], str]) -> None:
    line_of("old=$COMP_WORDBREAKS COMP_WORDBREAKS=$' \\t\\n\"\\'><;|&('\n")
    try:
        assert line_of("wrn-pipe compare --run=ci\t") == f"wrn-pipe compare --run={RUN} "
        assert line_of("wrn-pipe repro train@ci\t") == f"wrn-pipe repro train@{RUN} "
    finally:
        line_of("COMP_WORDBREAKS=$old\n")
