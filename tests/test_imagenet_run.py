"""A run on photographs in ImageNet's layout, planned from the paper's Table 7, and one on whitened images, by the real
commands to the tables."""

import csv
import json
from pathlib import Path
from typing import Any

import numpy as np
import photos
import pyarrow.parquet as pq
import pytest
from project import RUN as WHITENED
from project import make_project, told

from pipeline.dataset_config import DATA_DIR

pytestmark = pytest.mark.soak

RUN = "imagenet-wrn-18-1-0-paper-imagenet-s1"


def test_photographs_from_archives_and_whitened_images_to_their_tables(
    tmp_path: Path, tiny_entry: dict[str, Any]
) -> None:
    tree = photos.make_tree(tmp_path / "tree", classes=50, train=2, test=1, longest=240)
    md5 = photos.pack(tree, tmp_path / "mine")
    root = tmp_path / "project"
    root.mkdir()
    project = make_project(root, tiny_entry)
    told(project.cli("plan", "--paper-table", "7", "--row", "WRN-18-1.0", "--seeds", "1", "--yes"))

    def small(params: Any) -> None:
        kinds = params["representations"]["imagenet-jpeg"]
        assert kinds == {"dataset": "imagenet", "kind": "jpeg", "max_side": 500, "quality": 90}
        params["datasets"]["imagenet"] = photos.entry_of(tree, sources=[{"folder": True, "md5": md5}])
        params["representations"] = {
            "imagenet-jpeg": {**kinds, "max_side": 200},
            "cifar10-tiny-zca": {"dataset": "cifar10-tiny", "kind": "zca"},
        }
        params["protocols"]["paper-imagenet"].update(epochs=1, batch_size=25, learning_rate=0.01)
        params["protocols"]["paper-imagenet"]["schedule"]["drop_after"] = []
        zca = {"preprocessing": "zca", "precision": "fp32", "flip": "half-batch", "crop": "per-batch"}
        params["protocols"]["brief"].update(epochs=1, **zca)
        params["loading"]["backend"] = "ffcv"
        params["runs"][WHITENED]["representation"] = "zca"
        params["runs"] = {run: params["runs"][run] for run in (RUN, WHITENED)}
        params["tables"] = ["4", "7"]

    project.edit(small)
    told(project.cli("repro", **{DATA_DIR: str(tmp_path / "mine")}))

    def records(run: str) -> list[dict[str, Any]]:
        return [json.loads((root / f"evaluations/{run}/{name}").read_text()) for name in ("run.json", "metrics.json")]

    record, metrics = records(WHITENED)
    assert (record["representation"], record["protocol"]["preprocessing"]) == ("zca", "zca")
    assert metrics["n"] == 104
    assert (root / "results/table-4.md").is_file()

    with (root / f"models/{RUN}/history.csv").open() as file:
        (epoch,) = csv.DictReader(file)
    assert float(epoch["train_loss"]) < 8
    record, metrics = records(RUN)
    assert (record["loader"], record["representation"], record["network"]) == ("ffcv", "jpeg", "WRN-18-1.0")
    assert record["protocol"]["crop"] == "random-resized"
    table = pq.read_table(root / f"evaluations/{RUN}/predictions.parquet")
    labels = table.column("label").to_numpy()
    truth = sorted((path.parent.name, path.name) for path in (tree / "val").rglob("*.JPEG"))
    synsets = sorted({synset for synset, _ in truth})
    assert labels.tolist() == [synsets.index(synset) for synset, _ in truth]
    probabilities = np.stack([table.column(f"probability_{k}").to_numpy() for k in range(50)], axis=1)
    rank = (probabilities > probabilities[np.arange(50), labels][:, None]).sum(axis=1)
    assert metrics["n"] == 50
    assert metrics["top1_error"] == pytest.approx(100 * (rank > 0).mean())
    assert metrics["top5_error"] == pytest.approx(100 * (rank > 4).mean())
    rows = [row for row in csv.DictReader((root / "results/table-7.csv").open()) if RUN in row.values()]
    assert {row["metric"] for row in rows} == {"top1_error", "top5_error"}
    told(project.cli("repro", **{DATA_DIR: "/nowhere"}))
