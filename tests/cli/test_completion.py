"""What the shell offers at Tab, asked as bash asks it."""

import sys
from pathlib import Path

import pytest
from project import ROOT, Project
from ruamel.yaml import YAML
from typer.testing import CliRunner

from pipeline.cli.main import app

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
        ("repro train", ["train", f"train@{RUN}"]),
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
        ("explain --paper-table ", ["4", "figure-4", "text"]),
        ("verify --deeper ", [RUN]),
    ],
)
def test_words_of_the_plan_and_the_paper(typed: str, some: list[str]) -> None:
    words = offered(typed)
    assert set(some) <= set(words)
    assert all(word.startswith(typed.split(" ")[-1]) for word in words)
    assert len(words) == len(set(words))


def test_no_more_is_offered_than_a_command_takes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert offered("stage tabulate ") == ["4"]
    assert offered("stage summarize ") == []
    assert offered("stage ") == list(YAML(typ="safe", pure=True).load(ROOT / "dvc.yaml")["stages"])
    assert set(offered("compare --paper-table ")) - set(offered("explain --paper-table ")) == {"all"}
    monkeypatch.chdir(tmp_path)
    (tmp_path / "params.yaml").write_text("runs: [")
    assert offered("repro c") == [], "a broken plan offers nothing and says nothing"


def test_a_shell_is_answered_quickly() -> None:
    """In a process of its own, which loads nothing heavy."""
    code = (
        "import sys; sys.argv[0] = 'wrn-pipe'\nfrom pipeline.cli.main import app\n"
        "try:\n    app()\nfinally:\n    print('heavy:', {'torch', 'mlflow', 'pandas', 'numba'} & set(sys.modules))"
    )
    environment = {"_WRN_PIPE_COMPLETE": "complete_bash", "COMP_WORDS": "wrn-pipe repro cifar", "COMP_CWORD": "2"}
    ran = Project(ROOT).run(sys.executable, "-c", code, **environment)
    assert ran.stdout.splitlines() == [RUN, "heavy: set()"]
