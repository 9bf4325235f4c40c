"""A run on whitened images, by the real commands from download to table."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from project import RUN, make_project

from pipeline.data import beton, zca
from pipeline.data.readers import Splits

if TYPE_CHECKING:
    from tests.conftest import ArchiveServer

pytestmark = pytest.mark.soak


def test_whitened_from_download_to_table(
    tmp_path: Path,
    archive_server: ArchiveServer,
    tiny_archive: Path,
    tiny_images: Splits,
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

    folder = root / "data/beton/cifar10-tiny-zca"
    assert sorted(path.name for path in folder.iterdir()) == ["card.json", "test.beton", "train.beton"]
    X = zca.normalize_contrast(tiny_images["train"][0])
    _, singular, directions = np.linalg.svd(X - X.mean(axis=0), full_matrices=False)
    for split, (images, labels) in tiny_images.items():
        stored = beton.read(folder / f"{split}.beton")
        # Another route to the same values, without an eigendecomposition of 3072 dimensions; see test_zca.py.
        Y = zca.normalize_contrast(images) - X.mean(axis=0)
        seen = Y @ directions.T
        white = (seen / np.sqrt(singular**2 / 260 + 0.1)) @ directions + (Y - seen @ directions) / np.sqrt(0.1)
        assert np.allclose(stored[0].reshape(white.shape), white, atol=1e-4)
        assert np.array_equal(stored[1], labels)
    record = json.loads((root / "evaluations" / RUN / "run.json").read_text())
    assert (record["representation"], record["protocol"]["preprocessing"]) == ("zca", "zca")
    assert json.loads((root / "evaluations" / RUN / "metrics.json").read_text())["n"] == 104
    assert (root / "results/table-4.md").is_file()
