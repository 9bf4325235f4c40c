"""`wrn-pipe bench` and what is measured by hand in benchmarks/: that they run and what they compare; never how fast."""

import json
import os
import runpy
import subprocess
import sys
import tracemalloc
from dataclasses import asdict
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch

from pipeline.benchmarks import measuring, train_bench
from pipeline.benchmarks.loader_bench import bench as loader_bench
from pipeline.benchmarks.loading_ways import WAYS
from pipeline.benchmarks.measuring import machine, spread
from pipeline.benchmarks.train_bench import Way, default, ways
from pipeline.data.ffcv_patches import tables_only
from pipeline.errors import UserError
from pipeline.progress import say

ROOT = Path(__file__).resolve().parents[2]
BENCHMARKS = ROOT / "benchmarks"


def run(command: list[str], cwd: Path) -> "subprocess.CompletedProcess[str]":
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    return subprocess.run(
        [sys.executable, *command], cwd=cwd, env=environment, capture_output=True, text=True, check=False
    )


def told(cwd: Path, *options: str) -> dict[str, Any]:
    """What `wrn-pipe bench` says as JSON."""
    done = run(["-c", "from pipeline.cli.main import main; main()", "bench", *options, "--json"], cwd)
    assert done.returncode == 0, done.stderr
    result: dict[str, Any] = json.loads(done.stdout)
    return result


@pytest.fixture
def checkout(tiny_beton: Path, tmp_path: Path) -> Path:
    """params.yaml and a few real images as data/beton/cifar10-rgb."""
    (tmp_path / "params.yaml").write_text((ROOT / "params.yaml").read_text())
    (tmp_path / "data" / "beton").mkdir(parents=True)
    (tmp_path / train_bench.DATA).symlink_to(tiny_beton)
    return tmp_path


@pytest.mark.parametrize("bf16", [True, False])
@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_each_row_adds_one_thing_to_the_row_before(device: str, bf16: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    def changes(one: Way, other: Way) -> int:
        return sum(asdict(one)[key] != asdict(other)[key] for key in asdict(one))

    monkeypatch.setattr(measuring, "has_bf16", lambda _: bf16)
    listed = ways(torch.device(device), compiled=True, backend="ffcv")
    steps = [way for label, way in listed.items() if not label.endswith("instead")]
    assert steps[0] == Way()
    assert [changes(before, after) for before, after in pairwise(steps)] == [1] * (len(steps) - 1)
    assert changes(steps[-1], default(bf16)) <= (device == "cuda" or not bf16), "our convolutions are for bf16 on a CPU"
    assert ("torch.compile instead" in listed) == (device == "cpu")


def test_a_spread_is_median_and_extremes() -> None:
    assert asdict(spread([3.0, 1.0, 2.5])) == {"median": 2.5, "low": 1.0, "high": 3.0, "n": 3}
    assert str(spread([120.4, 1300.0, 99.0])) == "120 (99 to 1,300)"


@pytest.mark.parametrize("label", ["public port", "+ fused SGD"])
def test_a_way_trains(label: str, tiny_beton: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(train_bench, "MEASURE_S", 0.01)
    way = ways(torch.device("cpu"), compiled=False, backend="numpy")[label]
    try:
        assert train_bench.images_per_second("WRN-10-1", 32, way, tiny_beton) > 0
    finally:
        train_bench._loading_step.cache_clear()


@pytest.mark.parametrize("way", [way for way in WAYS if "FFCV" not in way])
def test_an_epoch_delivers_every_image(tiny_beton: Path, way: str) -> None:
    epoch = WAYS[way](tiny_beton, 1)
    assert [sum(len(labels) for _, labels in epoch(number)) for number in (0, 1)] == [260, 260]


def test_mistakes_are_found_before_anything_is_measured(
    tiny_beton: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for networks, message in ((["WRN-41-1"], "depth 41"), (["WRN-10-1"], "cifar10-rgb")):
        with pytest.raises(UserError, match=message):
            train_bench.bench(networks, 1, "numpy", compiled=False, say=say)
    with pytest.raises(UserError, match="4097 workers, but this process may use"):
        loader_bench(tiny_beton, ["ours over numpy"], [1, 4097], 1, say)
    with pytest.raises(UserError, match=r"card\.json not found"):
        loader_bench(tmp_path / "cifar10-rgb", ["ours over numpy"], [1], 1, say)
    ran = run(["-c", "from pipeline.cli.main import main; main()", "bench", "loader", "--ways", "dali"], tmp_path)
    assert ran.returncode == 2
    assert "no way to load is called 'dali'\n  fix: choose words of: ours over FFCV," in ran.stderr


@pytest.mark.endurance
@pytest.mark.soak
def test_bench_train_reports_every_way(checkout: Path) -> None:
    result = told(checkout, "train", "--networks", "WRN-10-1", "--repeats", "1")
    (network,) = result["networks"]
    assert (network["network"], network["batch"]) == ("WRN-10-1", 128)
    device = torch.device(result["machine"]["type"])
    assert [row["label"] for row in network["rows"]] == list(ways(device, compiled=False, backend="ffcv"))
    for row in network["rows"]:
        assert row["gflops"] == pytest.approx(row["images_per_s"]["median"] * network["gflop_per_image"])
    assert network["rows"][0]["times_port"] == 1
    assert result["matrix_gflops"]["bf16"]["median"] > 0


@pytest.mark.endurance
@pytest.mark.soak
def test_bench_loader_measures_every_way(checkout: Path) -> None:
    result = told(checkout, "loader", "--repeats", "1", "--workers", "1")
    assert [rate["way"] for rate in result["rates"]] == list(WAYS)
    assert min(rate["images_per_s"]["median"] for rate in result["rates"]) > 0
    caches = [(first["way"], first["caches"]) for first in result["first_batches"]]
    assert caches == [(way, state) for way in ("ours over FFCV", "ours over numpy") for state in ("cold", "warm")]
    assert result["images"] == 260


@pytest.mark.endurance
@pytest.mark.soak
def test_figure_4_sets_our_ratios_beside_the_papers(tmp_path: Path) -> None:
    result = told(tmp_path, "figure-4", "--repeats", "1", "--precision", "bf16")
    assert result["precision"] == "bf16"
    assert result["machine"]["deterministic"] == "True"  # as in the process that measured, not in this one
    timings = {timing["network"]: timing for timing in result["timings"]}
    assert {name: timing["paper_ms"] for name, timing in timings.items()} == {
        "pre-act-ResNet-164": 85,
        "pre-act-ResNet-1001": 512,
        "WRN-40-4": 68,
        "WRN-16-10": 164,
        "WRN-28-10": 312,
    }
    for timing in timings.values():
        assert timing["ratio"] == pytest.approx(timing["ms"]["median"] / timings["WRN-40-4"]["ms"]["median"])
        assert timing["paper_ratio"] == pytest.approx(timing["paper_ms"] / 68)


def test_the_machine_is_told_in_words(monkeypatch: pytest.MonkeyPatch) -> None:
    """What the owner of a machine is asked to report."""
    monkeypatch.setenv("OMP_WAIT_POLICY", "passive")
    here = machine()
    assert {"type", "name", "threads", "torch", "cores", "deterministic"} <= set(here)
    assert "OMP_WAIT_POLICY=passive" in here["environment"]
    assert all(here.values())


@pytest.mark.endurance
@pytest.mark.soak
@pytest.mark.parametrize(
    ("words", "rows"),
    [
        (["epochs.py", "--network", "WRN-10-1"], 3),
        (["neighbours.py", "--network", "WRN-10-1", "--repeats", "1"], 7),
        (["scale.py", "--samples", "3000", "--repeats", "1"], 12),
    ],
    ids=lambda value: value[0] if isinstance(value, list) else "",
)
def test_what_developers_measure_by_hand_runs(words: list[str], rows: int, checkout: Path) -> None:
    done = run([str(BENCHMARKS / words[0]), *words[1:]], checkout)
    assert done.returncode == 0, done.stderr
    assert len(done.stdout.splitlines()) == rows
    assert not (checkout / "scratch").exists() or not list((checkout / "scratch").iterdir())


def test_no_python_object_stays_for_a_sample(tmp_path: Path) -> None:
    """FFCV's own memory manager keeps a dict entry, two sets and three numbers for each: 600 bytes."""
    import ffcv.loader.loader
    from ffcv.reader import Reader

    n = 20_000
    runpy.run_path(str(BENCHMARKS / "scale.py"))["write"](tmp_path / "small-jpeg", n)
    before = ffcv.loader.loader.OSCacheManager

    def bytes_of_a_sample() -> float:
        reader = Reader(str(tmp_path / "small-jpeg" / "train.beton"))
        tracemalloc.start()
        kept = ffcv.loader.loader.OSCacheManager(reader)
        size = tracemalloc.get_traced_memory()[0] / n
        tracemalloc.stop()
        assert len(kept.ptrs) == n
        return size

    with tables_only():
        assert bytes_of_a_sample() < 20
    assert ffcv.loader.loader.OSCacheManager is before
    assert bytes_of_a_sample() > 200
