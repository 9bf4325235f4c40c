"""A run on whitened images, by the real commands from download to table."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from project import RUN, make_project

if TYPE_CHECKING:
    from tests.conftest import ArchiveServer

pytestmark = pytest.mark.soak


def test_whitened_from_download_to_table(
    tmp_path: Path,
    archive_server: ArchiveServer,
    tiny_archive: Path,
    tiny_dataset_entry: Callable[[str], dict[str, Any]],
) -> None:
    root = tmp_path / "project"
    root.mkdir()
    project = make_project(root, tiny_dataset_entry(archive_server.put(tiny_archive)))

    def whiten(params: Any) -> None:
        params["representations"] = {"cifar10-tiny-zca": {"dataset": "cifar10-tiny", "kind": "zca"}}
        params["protocols"]["brief"].update(
            preprocessing="zca", epochs=1, precision="fp32", flip="half-batch", crop="per-batch"
        )
        params["runs"][RUN]["representation"] = "zca"

    project.edit(whiten)
    done = project.cli("repro")
    assert done.returncode == 0, done.stdout + done.stderr
    written = sorted(path.name for path in (root / "data/beton/cifar10-tiny-zca").iterdir())
    assert written == ["card.json", "test.beton", "train.beton"]
    record, metrics = (
        json.loads((root / "evaluations" / RUN / name).read_text()) for name in ("run.json", "metrics.json")
    )
    assert (record["representation"], record["protocol"]["preprocessing"]) == ("zca", "zca")
    assert metrics["n"] == 104
    assert (root / "results/table-4.md").is_file()
