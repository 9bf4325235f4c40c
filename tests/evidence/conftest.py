"""A finished project for all tests of the evidence, its archive, and copies of both to spoil."""

import importlib
import json
import os
import shutil
import zipfile
from collections.abc import Callable, Iterator
from contextlib import chdir
from pathlib import Path
from typing import Any

import pytest
from filelock import FileLock
from project import Project, make_project
from ruamel.yaml import YAML

from pipeline.artifacts import read_weights, write_weights
from pipeline.atomic_write import json_text
from pipeline.cli.verify import run_stage
from pipeline.dvc_lock import md5
from pipeline.evidence.bundling import bundle
from pipeline.evidence.verification import is_here
from pipeline.publication.wide_resnet import PAPER
from pipeline.runner.dag import Stage, stages
from pipeline.runner.params_file import load


@pytest.fixture(scope="session")
def finished(tiny_raw: Path, tiny_beton: Path, tmp_path_factory: pytest.TempPathFactory) -> Project:
    """Its stages ran in this process, one after the other, and DVC recorded what they wrote. Not to be changed: made
    once for all test processes."""
    own = tmp_path_factory.getbasetemp()
    shared = own.parent if "PYTEST_XDIST_WORKER" in os.environ else own
    root = shared / "finished"
    with FileLock(shared / "finished.lock"):
        if (root / ".done").exists():
            return Project(root)
        project = make_project(root)
        # Nothing to be built; and torch's bf16 takes minutes where the processor has no instructions for it.
        project.edit(lambda params: params.update(kernels="torch"))
        project.set_brief(precision="fp32")
        shutil.copytree(tiny_raw, root / "data/raw/cifar10-tiny")
        shutil.copytree(tiny_beton, root / "data/beton/cifar10-tiny-rgb")
        with chdir(root), pytest.MonkeyPatch.context() as patch:
            run_stages(root, patch, lambda stage: stage.kind not in ("download", "convert"))
        project.commit("results")
        (root / ".done").touch()
    return project


def run_stages(root: Path, patch: pytest.MonkeyPatch, chosen: Callable[[Stage], bool]) -> None:
    """Without an MLflow server, in the project at `root`, the current folder."""
    patch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
    for stage in stages(root):
        if chosen(stage):
            words = stage.command.split()
            importlib.import_module(words[2]).main(*words[3:])
    done = Project(root).run("dvc", "commit", "--force", "--quiet")
    assert done.returncode == 0, done.stderr


@pytest.fixture
def copy(finished: Project, tmp_path: Path) -> Iterator[Project]:
    """A copy of the finished project, the current folder while the test runs."""
    root = tmp_path / "copy"
    shutil.copytree(finished.root, root, ignore=shutil.ignore_patterns("__pycache__"))
    with chdir(root):
        yield Project(root)


@pytest.fixture(scope="session")
def archive(finished: Project, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The finished project as one file."""
    path = tmp_path_factory.mktemp("bundle") / "wrn.zip"
    with chdir(finished.root):
        bundle(PAPER, load(), path, run_stage)
    return path


def contents(archive: Path) -> dict[str, bytes]:
    with zipfile.ZipFile(archive) as opened:
        return {name: opened.read(name) for name in opened.namelist()}


def packed(to: Path, members: dict[str, bytes]) -> Path:
    with zipfile.ZipFile(to, "w") as opened:
        for name, content in members.items():
            opened.writestr(name, content)
    return to


def edited(path: Path, change: Callable[[Any], object] = dict, **values: Any) -> None:
    """A JSON file, changed by hand: these values, or what the function does to it."""
    content = json.loads(path.read_text())
    change(content)
    content.update(values)
    text = json_text(content)
    assert text != path.read_text()
    path.write_text(text)


def other_weights(path: Path) -> None:
    weights = read_weights(path)
    weights["fc.bias"][0] += 100
    write_weights(path, weights)


def lock(change: Callable[[Any], object]) -> None:
    """The stages of the dvc.lock in the current folder, changed by hand."""
    yaml = YAML()
    told = yaml.load(Path("dvc.lock"))
    before = json.dumps(told)
    change(told["stages"])
    assert json.dumps(told) != before
    yaml.dump(told, Path("dvc.lock"))


def rerecord(told: Any) -> None:
    """What dvc.lock has of every file, as it is now: what somebody does who edits a file and covers it up."""
    for stage in told.values():
        for entry in (*stage.get("deps", ()), *stage["outs"]):
            if is_here(entry["path"]):
                entry["md5"] = md5(entry["path"])
