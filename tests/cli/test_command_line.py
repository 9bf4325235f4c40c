"""What is typed wrongly is told in two lines: what, and how to fix it. Exit code 2, no traceback. And what the shell
offers at Tab, asked as bash asks it."""

import os
import shutil
import signal
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

import pytest
from project import ROOT, WRN_PIPE, Project, WrnPipe, refused, told
from ruamel.yaml import YAML
from typer.testing import CliRunner

from pipeline.cli.main import app

RUN = "cifar10-wrn-40-1-quick-s1"
MISTYPED = {
    "statsu": ("wrn-pipe: No such command 'statsu'. Did you mean 'status'?", "wrn-pipe --help"),
    "status --jsno": ("wrn-pipe status: No such option: --jsno (Possible options: --json)", "wrn-pipe status --help"),
    "verify --deeper": ("wrn-pipe verify: Option '--deeper' requires an argument.", "wrn-pipe verify --help"),
    "data --json show --out": ("wrn-pipe data show: Option '--out' requires", "wrn-pipe data show --help"),
    "plan": ("wrn-pipe plan: Missing option '--paper-table'.", "wrn-pipe plan --help"),
    "plan --paper-table 4 --seeds none": ("wrn-pipe plan: Invalid value for '--seeds'", "wrn-pipe plan --help"),
    "data verfiy": ("wrn-pipe data: No such command 'verfiy'. Did you mean 'verify'?", "wrn-pipe data --help"),
    "repro --json": ("--json without --dry", "add --dry"),
    "repro --jobs 2 --slurm": ("--jobs with --slurm", "give one of them"),
    "repro --gpus 1": ("--gpus without --slurm", "add --slurm"),
    "repro tarin": ("no stage or run 'tarin'", "did you mean train?"),
    "repro --dry nothing-*": ("no stage or run 'nothing-*'", "known targets: "),
    "repro cifar10-wrn-16-8-paper-zca-s*": (
        "params.yaml has no run 'cifar10-wrn-16-8-paper-zca-s*' yet",
        "wrn-pipe plan --paper-table 4 --row WRN-16-8 --dataset cifar10 adds it",
    ),
    "compare --paper-table 44": ("the paper has no table '44' with numbers", "did you mean 4?"),
    "compare --run cifar10-wrn-40-1-quick-s2": ("params.yaml has no run", f"did you mean {RUN}?"),
    "bench train --repeats=3 --repeats 5": ("wrn-pipe bench train: --repeats is given twice", "bench train --help"),
    "stage tarin x": ("'tarin' is not one of 'download', ", "wrn-pipe stage --help"),
    "stage train": ("stage train of what?", RUN),
    "stage train cifar10-wrn-40-1-quik-s1": ("params.yaml has no 'cifar10-wrn-40-1-quik-s1'", f"did you mean {RUN}?"),
    "stage report x": ("params.yaml has no 'x' for stage report", "wrn-pipe stage report"),
    "stage download cifar10 --fresh": ("stage download has no option --fresh", "wrn-pipe stage train RUN"),
    f"stage train {RUN} --twice --wait": ("--twice with --wait", "give one of them"),
    f"stage train {RUN} --steps 3": ("--steps without --twice", "add --twice"),
    f"stage train {RUN} --nproc 4": ("each normalises by its own share", "batch_norm: synchronised"),
    f"stage train {RUN} --nproc four": ("'--nproc': four is not a number", "wrn-pipe stage --help"),
    "repro --dry --pull": ("--dry with --pull or --push", "leave one out"),
    "repro --pull --force": ("--pull with --force", "give one of them"),
    "verify --epochs 1": ("--epochs without --deeper", "wrn-pipe verify --deeper RUN"),
    "verify --bundle x.zip --deep": ("--bundle with RUN, --deep", "unpack it where the data is"),
    "verify --bundle x.zip": ("x.zip cannot be unpacked: ", "wrn-pipe bundle"),
    "verify x --deep": ("params.yaml has no run 'x'", "known runs: "),
    "explain --paper-table 4 --row WRN-40-11": ("no row 'WRN-40-11'", "did you mean WRN-40-1?"),
    "explain --paper-table 4 --row WRN-40-1 --dataset svhn": ("no dataset 'svhn'", "known datasets: "),
    "explain --paper-table all --row WRN-40-1": ("the paper has no table 'all'", "known tables: 2, 3, 4"),
    "net WRN-1000000-1": ("deeper than 2000 layers", "write WRN-28-10"),
    "bench loader --ways dali": ("no way to load is called 'dali'", "choose words of: ours over FFCV,"),
    "estimate --paper-table figure-4": ("table figure-4 has nothing to train", "choose "),
    "plan --paper-table 4 --dataset cifar1000": ("no dataset 'cifar1000'", "cifar100?"),
    "plan --paper-table 4 --protocol quik": ("no protocol 'quik'", "quick?"),
    "plan --paper-table figure-4": ("nothing to train for these numbers: 5 timings", "choose a table"),
    "plan --paper-table 5 --row NIN": ("2 quoted from other papers", "choose a table"),
    "plan --paper-table 9 --dataset coco": ("1 on COCO, which has no recipe", "choose a table"),
}


@pytest.mark.parametrize("words", MISTYPED)
def test_a_mistake_is_two_lines(words: str, wrn_pipe: WrnPipe, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    done = wrn_pipe(*words.split())
    assert (done.stdout, done.stderr) == ("", refused(done))
    what, fix = done.stderr.splitlines()
    said, remedy = MISTYPED[words]
    assert said in what
    assert remedy in fix


@pytest.mark.parametrize(("words", "code"), [("", 2), ("--help", 0), ("data --help", 0)])
def test_help_is_no_mistake(words: str, code: int, wrn_pipe: WrnPipe) -> None:
    done = wrn_pipe(*words.split())
    assert done.returncode == code
    assert "Usage: wrn-pipe" in done.stdout + done.stderr
    assert "error:" not in done.stderr


def test_a_reader_that_leaves_is_no_failure_of_ours() -> None:
    """As in wrn-pipe ... | head: 141 is what the shell gives for it, 1 is for a failure or a difference."""
    read, write = os.pipe()
    os.close(read)
    done = subprocess.run(
        [*WRN_PIPE, "net", "WRN-16-8"], cwd=ROOT, stdout=write, stderr=subprocess.PIPE, text=True, check=False
    )
    os.close(write)
    assert (done.returncode, done.stderr) == (128 + signal.SIGPIPE, "")


def test_another_folder_than_the_repositorys_is_told_the_way(
    wrn_pipe: WrnPipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    otherwise = "cd into the repository; git checkout params.yaml if it was deleted"
    for folder, remedy in ((ROOT / "docs" / "how-to", f"cd {ROOT}"), (tmp_path, otherwise)):
        monkeypatch.chdir(folder)
        assert refused(wrn_pipe("status")) == f"error: params.yaml not found in {folder}\n  fix: {remedy}\n"


def test_the_version_names_the_commit_that_is_checked_out(tmp_path: Path) -> None:
    """Of its own checkout, not of the user's folder, and none where it is installed."""
    here, there = Project(ROOT), Project(tmp_path / "installed")
    said, head = f"wrn-pipe {version('wrn-pipe')}", told(here.run("git", "rev-parse", "HEAD"))[:12]
    shutil.copytree(ROOT / "pipeline", there.root / "pipeline")
    told(Project(tmp_path).run("git", "init", "-q"))
    assert told(here.cli("--version")).strip().removesuffix(" with edits") == f"{said}, commit {head}"
    assert told(there.cli("--version")).strip() == said


def offered(typed: str) -> list[str]:
    """The words after `wrn-pipe <typed>`, whose last word is being completed."""
    words = ["wrn-pipe", *typed.split(" ")]
    asked = {"_WRN_PIPE_COMPLETE": "complete_bash", "COMP_WORDS": " ".join(words), "COMP_CWORD": str(len(words) - 1)}
    runner = CliRunner(env=asked)
    return runner.invoke(app, [], prog_name="wrn-pipe", catch_exceptions=False).stdout.split()


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
        ("compare --dataset ", ["cifar10", "cifar100", "svhn", "imagenet"]),
        ("plan --protocol paper-z", ["paper-zca"]),
        ("plan --row WRN-16-", ["WRN-16-8", "WRN-16-10"]),
        ("estimate --paper-table ", ["4", "all"]),
        ("data verify ", ["cifar10"]),
        ("net WRN-28-1", ["WRN-28-10"]),
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
