"""python -m stages.download, run as DVC runs it."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ruamel.yaml import YAML

if TYPE_CHECKING:
    from tests.conftest import ArchiveServer

ROOT = Path(__file__).parents[2]


def test_a_dataset_comes_or_is_two_lines_at_the_end(
    tmp_path: Path,
    archive_server: ArchiveServer,
    tiny_archive: Path,
    tiny_dataset_entry: Callable[[str], dict[str, Any]],
) -> None:
    plan = YAML().load(ROOT / "params.yaml")
    plan["datasets"]["cifar10-tiny"] = tiny_dataset_entry(archive_server.put(tiny_archive))
    YAML().dump(plan, tmp_path / "params.yaml")

    def download(dataset: str) -> tuple[int, list[str]]:
        command, env = [sys.executable, "-m", "stages.download", dataset], {**os.environ, "PYTHONPATH": str(ROOT)}
        ended = subprocess.run(command, cwd=tmp_path, env=env, capture_output=True, text=True, check=False)
        assert ended.stdout == ""
        return ended.returncode, ended.stderr.splitlines()[-2:]

    absent = ["error: params.yaml has no dataset 'cifar01-tiny'", "  fix: did you mean cifar10-tiny?"]
    assert download("cifar01-tiny") == (2, absent)
    assert download("cifar10-tiny")[0] == 0
    assert len(list((tmp_path / "data/raw/cifar10-tiny").iterdir())) == 4
    (archive_server.folder / "cifar-10-tiny.tar.gz").unlink()
    code, (error, fix) = download("cifar10-tiny")
    assert code == 2
    assert error.startswith("error: cifar10-tiny: no source gives it: archive http://127.0.0.1:")
    assert error.endswith("the server answers 404 Not Found")
    assert fix.startswith("  fix: fix one of these, or add `- folder: true`")
