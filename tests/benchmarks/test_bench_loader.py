"""wrn-pipe bench loader on a few real images: every way delivers, mistakes are named, the numbers are consistent."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from pipeline.benchmarks.loader_bench import bench
from pipeline.benchmarks.loading_ways import WAYS
from pipeline.errors import UserError
from pipeline.progress import say


@pytest.mark.parametrize("way", [way for way in WAYS if "FFCV" not in way])
def test_an_epoch_delivers_every_image(tiny_beton: Path, way: str) -> None:
    epoch = WAYS[way](tiny_beton, 1)
    assert [epoch(0), epoch(1)] == [260, 260]


def test_more_workers_than_cores_are_refused(tiny_beton: Path) -> None:
    with pytest.raises(UserError, match="4097 workers, but this process may use"):
        bench(tiny_beton, ["ours over numpy"], [1, 4097], 1, say)


def test_a_missing_split_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"card\.json not found"):
        bench(tmp_path / "cifar10-rgb", ["ours over numpy"], [1], 1, say)


@pytest.mark.endurance
@pytest.mark.soak
def test_the_command_measures_every_way(tiny_beton: Path, tmp_path: Path) -> None:
    (tmp_path / "data" / "beton").mkdir(parents=True)
    (tmp_path / "data" / "beton" / "cifar10-rgb").symlink_to(tiny_beton)
    command = [sys.executable, "-c", "from pipeline.cli.main import main; main()", "bench", "loader"]
    options = ["--repeats", "1", "--workers", "1", "--json"]
    ran = subprocess.run([*command, *options], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stderr
    result = json.loads(ran.stdout)
    assert [rate["way"] for rate in result["rates"]] == list(WAYS)
    reference = next(rate for rate in result["rates"] if rate["way"] == "torchvision DataLoader")
    for rate in result["rates"]:
        spread = rate["images_per_s"]
        assert 0 < spread["low"] <= spread["median"] <= spread["high"]
        assert spread["n"] == 1
        assert rate["times_torchvision"] == pytest.approx(spread["median"] / reference["images_per_s"]["median"])
    caches = [(first["way"], first["caches"]) for first in result["first_batches"]]
    assert caches == [(way, state) for way in ("ours over FFCV", "ours over numpy") for state in ("cold", "warm")]
    assert result["images"] == 260


def test_a_way_nobody_knows_is_a_mistake_with_a_remedy(tmp_path: Path) -> None:
    command = [sys.executable, "-c", "from pipeline.cli.main import main; main()", "bench", "loader", "--ways", "dali"]
    ran = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert ran.returncode == 2
    assert "no way to load is called 'dali'\n  fix: choose words of: ours over FFCV," in ran.stderr
