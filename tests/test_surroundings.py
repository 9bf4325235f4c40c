"""What a caller's environment, file system and other programs may bring along, each as somebody has reported it."""

import filecmp
import os
import re
import shutil
import sqlite3
import ssl
import subprocess
import sys
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import pytest
from project import BIN, ROOT, RUN, Project, WrnPipe, copy_repository, make_project, refused, told
from tiny import IN_ITS_FOLDER

from pipeline.data.dataset_download import fetch_archive
from pipeline.dataset_config import SourceError
from pipeline.errors import UserError
from pipeline.provenance import commit
from pipeline.publication.wide_resnet import PAPER
from pipeline.tracking import mlflow_logger

HERE = Path(__file__).parent
ONE = "cifar10-wrn-40-1-quick-s1"


@pytest.fixture(scope="module")
def clone(tmp_path_factory: pytest.TempPathFactory) -> Project:
    """This repository with its plan and what is committed of its runs; not to be changed."""
    project = copy_repository(tmp_path_factory.mktemp("surroundings") / "c", "params.yaml", "dvc.lock")
    for name in ("results", "models", "evaluations"):
        shutil.copytree(ROOT / name, project.root / name, ignore=shutil.ignore_patterns("*.safetensors", "*.parquet"))
    project.commit("start")
    return project


def head(root: Path) -> str:
    return told(Project(root).run("git", "rev-parse", "HEAD")).strip()


def installed(root: Path, *words: str, **environment: str) -> "subprocess.CompletedProcess[str]":
    """The command of this checkout's environment, in another folder."""
    return Project(root).run(str(BIN / "wrn-pipe"), *words, **environment)


def test_a_git_hook_of_another_repository_is_not_asked(clone: Project, tmp_path: Path) -> None:
    other = copy_repository(tmp_path / "other")
    other.commit("of another")
    hook = {"GIT_DIR": str(other.root / ".git"), "GIT_WORK_TREE": str(other.root), "GIT_PREFIX": ""}
    assert head(clone.root)[:12] in told(clone.cli("--version", **hook))
    before = head(other.root), told(other.run("git", "status", "--porcelain"))
    test = "import sys, project; project.copy_repository(project.Path(sys.argv[1])).commit('by a test')"
    (tmp_path / ".gitconfig").write_text("[commit]\ngpgsign = true\n[gpg]\nprogram = false\n")
    signing = {"HOME": str(tmp_path), "XDG_CONFIG_HOME": str(tmp_path)}
    told(Project(tmp_path).run(sys.executable, "-c", test, "ours", PYTHONPATH=str(HERE), **hook, **signing))
    assert before == (head(other.root), told(other.run("git", "status", "--porcelain")))
    assert head(tmp_path / "ours") != before[0]


def test_other_code_than_the_checkouts_own_is_refused(clone: Project, tmp_path: Path) -> None:
    assert f"has code of its own\n  fix: source {clone.root}/.venv/bin/activate" in refused(
        installed(clone.root, "compare", "--paper-table", "4")
    )
    (tmp_path / "numpy.py").write_text("raise SystemExit('not numpy')")
    said = refused(installed(tmp_path, "net", "WRN-40-1", PYTHONPATH=str(tmp_path)))
    assert said.startswith(f"error: PYTHONPATH is {tmp_path}")
    told(installed(tmp_path, "net", "WRN-40-1"))


def test_streams_that_are_closed_and_terminals_without_a_width(
    clone: Project, wrn_pipe: WrnPipe, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan = "plan --paper-table 4 --row WRN-40-1 --dataset cifar10 --seeds 2"
    closed = clone.run("sh", "-c", f"exec {sys.executable} -m pipeline.cli.main {plan} <&-")
    assert "there is no terminal to ask on" in told(closed)
    monkeypatch.chdir(clone.root)
    for columns in ("0", "1"):
        monkeypatch.setenv("COLUMNS", columns)
        assert ONE in told(wrn_pipe("status"))
    monkeypatch.setenv("COLUMNS", "0")
    assert "WRN-40-1" in told(wrn_pipe("net", "WRN-40-1"))


def test_the_commit_of_another_users_checkout_is_unknown(
    clone: Project, wrn_pipe: WrnPipe, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(clone.root)
    monkeypatch.setenv("GIT_TEST_ASSUME_DIFFERENT_OWNER", "1")  # git's own means
    assert commit() == ("unknown", "unknown")
    assert "checked out is unknown: git does not tell" in told(wrn_pipe("show", ONE))
    assert "safe.directory" in refused(wrn_pipe("evidence", "add", ONE))


@pytest.fixture(scope="session")
def odd(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str, Path], dict[str, str]]:
    """An environment whose programs find an odd file system below a folder."""
    library = tmp_path_factory.mktemp("odd") / "odd.so"
    subprocess.run(["gcc", "-shared", "-fPIC", "-o", library, HERE / "odd_filesystem.c", "-ldl"], check=True)
    return lambda way, folder: {"LD_PRELOAD": str(library), "ODD": way, "ODD_FOLDER": str(folder)}


def test_without_locks_nobody_waits_for_one(clone: Project, odd: Callable[[str, Path], dict[str, str]]) -> None:
    lockless = odd("no-locks", clone.root)
    for words in (["repro"], ["repro", "--jobs", "1"]):
        said = refused(clone.cli(*words, **lockless))
        assert "is on a file system without locks" in said
        assert "core.hardlink_lock" in said
    row = "from pipeline.cli.doctor import by_command; print(by_command('locks').state)"
    assert told(clone.run(sys.executable, "-c", row, **lockless)) == "missing\n"


WRITING = "from pipeline.atomic_write import *; new_file(Path('a/b'), b'c')\nwith new_folder(Path('f')) as f: pass"


def test_a_folder_that_cannot_be_synced_holds_files(odd: Callable[[str, Path], dict[str, str]], tmp_path: Path) -> None:
    environment = {"PYTHONPATH": str(ROOT), **odd("no-folder-sync", tmp_path)}
    told(Project(tmp_path).run(sys.executable, "-c", WRITING, **environment))
    assert (tmp_path / "a/b").read_bytes() == b"c"


def test_an_mlflow_server_that_is_too_old_is_named(archive_server: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    (archive_server.folder / "version").write_text("2.16.2")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", archive_server.url)
    with pytest.raises(UserError, match=r"is MLflow 2\.16\.2, and 3 is needed"), mlflow_logger.explained():
        mlflow_logger.connect(PAPER)


CONNECTING = """
from pipeline.errors import exit_on_error
from pipeline.publication.wide_resnet import PAPER
from pipeline.tracking.mlflow_logger import connect, explained
with exit_on_error(), explained():
    connect(PAPER)
"""


@pytest.mark.soak
def test_a_database_of_another_schema_has_one_remedy(tmp_path: Path) -> None:
    def connected() -> "subprocess.CompletedProcess[str]":
        words = (sys.executable, "-c", CONNECTING)
        return Project(tmp_path).run(*words, PYTHONPATH=str(ROOT), MLFLOW_TRACKING_URI="")

    told(connected())
    with sqlite3.connect(tmp_path / "tracking/mlflow.db") as database:
        database.execute("update alembic_version set version_num = '451aebb31d03'")
    said = refused(connected())
    assert said.count("mlflow db upgrade") == 1
    assert re.search(r"fix: back it up, then: mlflow db upgrade 'sqlite:///", said)


def test_runs_of_dvcs_temporary_checkouts_are_recorded_where_these_were_given(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    copy = tmp_path / ".dvc/tmp/exps/tmp1"
    copy.mkdir(parents=True)
    monkeypatch.chdir(copy)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "")
    assert mlflow_logger.uri() == f"sqlite:///{tmp_path}/tracking/mlflow.db"


@pytest.mark.parametrize("name", ["what?", "100%25"])
def test_a_path_that_mlflow_would_read_otherwise_is_refused(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / name).mkdir()
    monkeypatch.chdir(tmp_path / name)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "")
    with pytest.raises(UserError, match="whose name has a"):
        mlflow_logger.uri()


def test_line_ends_stay_in_a_clone_that_would_turn_them(tmp_path: Path) -> None:
    turned, plain = tmp_path / "turned", tmp_path / "plain"
    told(Project(ROOT).run("git", "clone", "-q", str(ROOT), str(plain)))
    told(Project(ROOT).run("git", "clone", "-q", "-c", "core.autocrlf=true", str(ROOT), str(turned)))
    files = told(Project(plain).run("git", "ls-files")).splitlines()
    assert "environment/setup.sh" in files
    assert filecmp.cmpfiles(plain, turned, files, shallow=False)[1:] == ([], [])


@pytest.mark.skipif(not shutil.which("openssl"), reason="openssl, which makes the certificate, is not here")
def test_an_unknown_authority_names_the_variable(tmp_path: Path) -> None:
    key = "openssl req -x509 -newkey rsa:2048 -nodes -keyout key -out cert -days 2 -subj /CN=127.0.0.1"
    subprocess.run(key.split(), cwd=tmp_path, check=True, capture_output=True)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(tmp_path / "cert", tmp_path / "key")
    with HTTPServer(("127.0.0.1", 0), BaseHTTPRequestHandler) as server:
        server.socket = context.wrap_socket(server.socket, server_side=True)
        Thread(target=server.serve_forever, daemon=True).start()
        with pytest.raises(SourceError, match="SSL_CERT_FILE"):
            fetch_archive(f"https://127.0.0.1:{server.server_port}/x", "0" * 32, tmp_path / "x", 10)
        server.shutdown()


AS_NUMBER = "setpriv --reuid=12345 --regid=12345 --clear-groups --inh-caps=+dac_read_search"
AS_NUMBER += " --ambient-caps=+dac_read_search env -u USER -u LOGNAME"
"""A user without an entry in passwd, as `docker run --user 12345` has it, who may read all files."""
as_root = pytest.mark.skipif(
    not shutil.which("setpriv") or subprocess.run([*AS_NUMBER.split(), "true"], capture_output=True).returncode != 0,
    reason="only root, where it may, becomes somebody else",
)


@as_root
def test_a_colleagues_checkout_is_read_without_writing_to_it(clone: Project) -> None:
    """That of another user, in which nothing can be written: git does not tell its commit."""
    files = sorted(clone.root.rglob("*"))
    for words in (f"show {ONE}", "data", "repro --dry"):
        ran = clone.run(*AS_NUMBER.split(), "HOME=/", sys.executable, "-m", "pipeline.cli.main", *words.split())
        assert "ermission denied" not in told(ran)
    assert sorted(clone.root.rglob("*")) == files


@pytest.mark.soak
@as_root
@pytest.mark.parametrize(("home", "words"), [("HOME=/", f"train@{RUN}"), ("--unset=HOME", f"--jobs 1 {RUN}")])
def test_a_user_without_a_name_trains(home: str, words: str, tmp_path: Path) -> None:
    project = make_project(tmp_path / "project")
    project.edit(lambda params: params["datasets"]["cifar10-tiny"]["sources"].append({"folder": True}))
    for path in (tmp_path, project.root, *project.root.rglob("*")):
        os.chown(path, 12345, 12345)
    command = (sys.executable, "-m", "pipeline.cli.main", "repro", *words.split())
    ran = project.run(*AS_NUMBER.split(), home, *command, **IN_ITS_FOLDER)
    assert (project.root / "models" / RUN / "run.json").is_file(), ran.stdout + ran.stderr
