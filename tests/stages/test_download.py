"""python -m stages.download, run as DVC runs it."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from ruamel.yaml import YAML

if TYPE_CHECKING:
    from tests.conftest import ArchiveServer

ROOT = Path(__file__).parents[2]


@pytest.fixture
def project(
    tmp_path: Path,
    archive_server: ArchiveServer,
    tiny_archive: Path,
    tiny_dataset_entry: Callable[[str], dict[str, Any]],
) -> Path:
    """A folder with the shipped params.yaml, to which the tiny dataset was added."""
    yaml = YAML()
    plan = yaml.load((ROOT / "params.yaml").read_text())
    plan["datasets"]["cifar10-tiny"] = tiny_dataset_entry(archive_server.put(tiny_archive))
    folder = tmp_path / "project"
    folder.mkdir()
    with (folder / "params.yaml").open("w") as file:
        yaml.dump(plan, file)
    return folder


def _download(project: Path, dataset: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "stages.download", dataset]
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    return subprocess.run(command, cwd=project, env=env, capture_output=True, text=True, check=False)


def test_a_dataset_is_downloaded_twice_to_the_same_bytes(project: Path) -> None:
    folder = project / "data" / "raw" / "cifar10-tiny"
    seen = []
    for _ in range(2):
        ended = _download(project, "cifar10-tiny")
        assert ended.returncode == 0, ended.stderr
        assert ended.stdout == ""
        seen.append({path.name: path.read_bytes() for path in folder.iterdir()})
    assert len(seen[0]) == 4
    assert seen[0] == seen[1]


def test_a_mistyped_dataset_is_told_the_nearest(project: Path) -> None:
    ended = _download(project, "cifar01-tiny")
    assert ended.returncode == 2
    assert ended.stderr.splitlines() == [
        "error: params.yaml has no dataset 'cifar01-tiny'",
        "  fix: did you mean cifar10-tiny?",
    ]


def test_a_dataset_nobody_gives_is_two_lines_at_the_end(project: Path, archive_server: ArchiveServer) -> None:
    (archive_server.folder / "cifar-10-tiny.tar.gz").unlink()
    ended = _download(project, "cifar10-tiny")
    assert ended.returncode == 2
    error, fix = ended.stderr.splitlines()[-2:]
    assert error.startswith("error: cifar10-tiny: no source gives it: archive http://127.0.0.1:")
    assert error.endswith("the server answers 404 Not Found")
    assert fix.startswith("  fix: fix one of these, or add `- folder: true`")
    assert not (project / "data").exists()
