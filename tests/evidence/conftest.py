"""A finished project for all tests of the evidence, and copies of it to spoil."""

import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import chdir
from pathlib import Path
from typing import Any

import pytest
from filelock import FileLock
from finished import finish
from project import Project


@pytest.fixture(scope="session")
def finished(
    tiny_dataset_entry: Callable[[str], dict[str, Any]],
    tiny_raw: Path,
    tiny_beton: Path,
    tmp_path_factory: pytest.TempPathFactory,
) -> Project:
    """Not to be changed: made once for all test processes."""
    own = tmp_path_factory.getbasetemp()
    shared = own.parent if "PYTEST_XDIST_WORKER" in os.environ else own
    root = shared / "finished"
    with FileLock(shared / "finished.lock"):
        if not (root / ".done").exists():
            finish(root, tiny_dataset_entry("http://127.0.0.1:9/cifar-10-tiny.tar.gz"), tiny_raw, tiny_beton)
            (root / ".done").touch()
    return Project(root)


@pytest.fixture
def copy(finished: Project, tmp_path: Path) -> Iterator[Project]:
    """A copy of the finished project, the current folder while the test runs."""
    root = tmp_path / "copy"
    shutil.copytree(finished.root, root, ignore=shutil.ignore_patterns("__pycache__"))
    with chdir(root):
        yield Project(root)
