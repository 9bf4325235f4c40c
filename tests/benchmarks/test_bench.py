"""`wrn-pipe bench`: that it runs and what it compares; never how fast."""

import json
import os
import subprocess
import sys
from contextlib import nullcontext
from dataclasses import asdict
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch

from pipeline.benchmarks import measuring, train_bench
from pipeline.benchmarks.loader_bench import WAYS
from pipeline.benchmarks.loader_bench import bench as loader_bench
from pipeline.benchmarks.measuring import spread
from pipeline.benchmarks.train_bench import Way, default, ways
from pipeline.cli import main as command_line
from pipeline.errors import UserError
from pipeline.progress import say

ROOT = Path(__file__).resolve().parents[2]


def measured(cwd: Path, *options: str) -> dict[str, Any]:
    """What `wrn-pipe bench` says as JSON."""
    command = [sys.executable, "-c", "from pipeline.cli.main import main; main()", "bench", *options, "--json"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, cwd=cwd, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    result: dict[str, Any] = json.loads(done.stdout)
    return result


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


def test_bench_train_measures_every_way_and_says_where(tiny_beton: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In this process, for a moment."""
    listed = ways(torch.device("cpu"), compiled=False, backend="numpy")
    labels = ["public port", "+ fused SGD"]
    monkeypatch.setattr(train_bench, "MEASURE_S", 0.01)
    monkeypatch.setattr(train_bench, "DATA", tiny_beton)
    monkeypatch.setattr(train_bench, "ways", lambda *_: {label: listed[label] for label in labels})
    monkeypatch.setattr(train_bench, "peak_gemm", lambda _: 2e9)
    monkeypatch.setattr(train_bench, "process", lambda _: nullcontext())
    monkeypatch.setattr(train_bench, "ask", lambda _, function, *arguments: function(*arguments))
    monkeypatch.setenv("OMP_WAIT_POLICY", "passive")
    result = train_bench.bench(["WRN-10-1"], 1, "numpy", compiled=False, say=say)
    assert [(row.network, row.batch, row.label) for row in result.rows] == [("WRN-10-1", 128, each) for each in labels]
    for row in result.rows:
        # Three times forward, 2 FLOP for each of 12.5 million multiply-adds.
        assert row.gflops == pytest.approx(row.images_per_s.median * 6 * 12_501_632 / 1e9)
        assert row.of_peak_gemm == row.gflops / 2
        assert row.speed_up == row.images_per_s.median / result.rows[0].images_per_s.median
    assert {"type", "name", "threads", "torch", "cores", "deterministic"} <= set(result.machine)
    assert "OMP_WAIT_POLICY=passive" in result.machine["environment"]
    assert all(result.machine.values())


@pytest.mark.parametrize("way", [way for way in WAYS if "FFCV" not in way])
def test_an_epoch_delivers_every_image(tiny_beton: Path, way: str) -> None:
    epoch = WAYS[way](tiny_beton, 1)
    parts = [list(epoch(number)) for number in (0, 1)]
    assert [sum(len(labels) for _, labels in of) for of in parts] == [260, 260]
    assert parts[0][0][0].shape[1:] == (3, 32, 32)


def test_mistakes_are_found_before_anything_is_measured(
    tiny_beton: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    for networks, message in ((["WRN-41-1"], "depth 41"), (["WRN-10-1"], "cifar10-rgb")):
        with pytest.raises(UserError, match=message):
            train_bench.bench(networks, 1, "numpy", compiled=False, say=say)
    with pytest.raises(UserError, match="4097 workers, but this process may use"):
        loader_bench(tiny_beton, ["ours over numpy"], [1, 4097], 1, say)
    monkeypatch.setattr("sys.argv", ["wrn-pipe", "bench", "loader", "--ways", "dali"])
    with pytest.raises(SystemExit) as ended:
        command_line.main()
    assert ended.value.code == 2
    assert "'dali'\n  fix: choose words of: ours over FFCV," in capsys.readouterr().err


@pytest.mark.endurance
@pytest.mark.soak
def test_the_commands_measure_in_processes_of_their_own(tiny_beton: Path, tmp_path: Path) -> None:
    (tmp_path / "params.yaml").write_text((ROOT / "params.yaml").read_text())
    (tmp_path / "data" / "beton").mkdir(parents=True)
    (tmp_path / train_bench.DATA).symlink_to(tiny_beton)
    result = measured(tmp_path, "train", "--networks", "WRN-10-1", "--repeats", "1")
    device = torch.device(result["machine"]["type"])
    assert [row["label"] for row in result["rows"]] == list(ways(device, compiled=False, backend="ffcv"))
    assert result["machine"]["deterministic"] == "True", "as in the process that measured, not in this one"
    result = measured(tmp_path, "loader", "--repeats", "1", "--workers", "1")
    assert [rate["way"] for rate in result["rates"]] == list(WAYS)
    assert min(rate["images_per_s"]["median"] for rate in result["rates"]) > 0
    assert (result["images"], result["machine"]["threads"]) == (260, "1")
    timings = {
        each["network"]: each
        for each in measured(tmp_path, "figure-4", "--repeats", "1", "--precision", "bf16")["timings"]
    }
    paper = {name: timing["paper_ms"] for name, timing in timings.items()}
    thin = {"pre-act-ResNet-164": 85, "pre-act-ResNet-1001": 512}
    assert paper == {**thin, "WRN-40-4": 68, "WRN-16-10": 164, "WRN-28-10": 312}
    for timing in timings.values():
        assert timing["ratio"] == pytest.approx(timing["ms"]["median"] / timings["WRN-40-4"]["ms"]["median"])
        assert timing["paper_ratio"] == pytest.approx(timing["paper_ms"] / 68)
