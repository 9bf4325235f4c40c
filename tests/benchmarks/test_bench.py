"""`wrn-pipe bench train` and `figure-4`: what they compare, and that they run; never how fast."""

import json
import os
import shutil
import subprocess
import sys
from dataclasses import asdict
from itertools import pairwise
from pathlib import Path
from typing import Literal, get_args

import pytest
import torch

from pipeline.benchmarks import figure_4, measuring, steps, train_bench
from pipeline.benchmarks.child import process
from pipeline.benchmarks.machine import machine
from pipeline.benchmarks.measuring import spread
from pipeline.benchmarks.steps import Kind, Way, default, forget, images_per_second, kind_of, uncompiled, ways
from pipeline.errors import UserError
from pipeline.runner.waiting import POLICY
from pipeline.training import device as devices

ROOT = Path(__file__).resolve().parents[2]


def silent(text: str) -> None:
    """No progress."""


def cli(*arguments: str, cwd: Path, **environment: str) -> "subprocess.CompletedProcess[str]":
    code = f"import sys; sys.path.insert(0, {str(ROOT)!r}); from pipeline.cli.main import main; main()"
    return subprocess.run(
        [sys.executable, "-c", code, *arguments],
        cwd=cwd,
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.mark.parametrize("kind", get_args(Kind))
def test_each_row_adds_one_thing_to_the_row_before(kind: Kind) -> None:
    def changes(one: Way, other: Way) -> int:
        return sum(asdict(one)[key] != asdict(other)[key] for key in asdict(one))

    listed = ways(kind, compiled=True, backend="ffcv")
    steps = [way for label, way in listed.items() if not label.endswith("instead")]
    assert steps[0] == Way()
    convolutions: Literal["torch", "ours"] = "ours" if kind == "cpu" else "torch"
    bf16 = kind != "cpu without bf16"
    assert steps[-1] == default(listed) == Way(True, bf16, "ffcv", "fused", True, "fused", convolutions)
    assert [changes(before, after) for before, after in pairwise(steps)] == [1] * (len(steps) - 1)
    others = {label: way for label, way in listed.items() if label.endswith("instead")}
    assert {changes(default(listed), way) for way in others.values()} == {1}
    assert {way.sgd for way in others.values()} >= {"foreach"}
    assert ("compiled" in {way.kernels for way in others.values()}) == (kind != "cuda")
    assert "compiled" not in {way.kernels for way in ways(kind, compiled=False, backend="ffcv").values()}


def test_without_bf16_torchs_is_not_tried() -> None:
    """A step would take minutes."""
    assert not any(way.bf16 for way in ways("cpu without bf16", compiled=True, backend="ffcv").values())


def test_a_row_is_named_for_what_it_changes_on_its_device() -> None:
    """An allocator is set on a CPU only, and what kernels: fused is on a GPU is not our BN-ReLU."""
    kinds: tuple[Kind, ...] = ("cpu", "cuda")
    cpu, cuda = (set(ways(kind, compiled=False, backend="ffcv")) for kind in kinds)
    assert cpu - cuda == {
        "+ allocator, own cores",
        "+ fused BN-ReLU",
        "+ our weight gradients",
        "SGD one by one instead",
    }
    assert cuda - cpu == {"+ repeatable kernels, no TF32", "+ torch.compile"}


def test_a_spread_is_median_and_extremes() -> None:
    assert asdict(spread([3.0, 1.0, 2.5])) == {"median": 2.5, "low": 1.0, "high": 3.0, "n": 3}
    assert str(spread([120.4, 1300.0, 99.0])) == "120 (99 to 1,300)"


@pytest.mark.parametrize("label", ["public port", "+ fused SGD"])
def test_a_way_trains(label: str, tiny_beton: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(steps, "MEASURE_S", 0.01)
    try:
        assert images_per_second("WRN-10-1", 32, ways("cpu", compiled=False, backend="numpy")[label], tiny_beton) > 0
    finally:
        forget()


def test_mistakes_are_found_before_anything_is_measured(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for networks, message in ((["WRN-41-1"], "depth 41"), (["WRN-10-1"], "cifar10-rgb")):
        with pytest.raises(UserError, match=message):
            train_bench.bench(networks, 1, "numpy", compiled=False, epoch=False, say=silent)


@pytest.mark.endurance
@pytest.mark.soak
def test_bench_train_reports_every_way(tiny_beton: Path, tmp_path: Path) -> None:
    shutil.copyfile(ROOT / "params.yaml", tmp_path / "params.yaml")
    shutil.copytree(tiny_beton, tmp_path / train_bench.DATA)
    done = cli("bench", "train", "--networks", "WRN-10-1", "--repeats", "1", "--no-epoch", "--json", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout)
    (network,) = result["networks"]
    assert (network["network"], network["batch"]) == ("WRN-10-1", 128)
    assert [row["label"] for row in network["rows"]] == list(
        ways(kind_of(torch.device(result["machine"]["type"])), compiled=False, backend="ffcv")
    )
    for row in network["rows"]:
        assert row["images_per_s"]["low"] <= row["images_per_s"]["median"] <= row["images_per_s"]["high"]
        assert row["gflops"] == pytest.approx(row["images_per_s"]["median"] * network["gflop_per_image"])
    assert network["rows"][0]["times_port"] == 1
    assert result["matrix_gflops"]["bf16"]["median"] > 0


@pytest.mark.endurance
@pytest.mark.soak
def test_neighbours_are_measured_in_every_setting(tmp_path: Path) -> None:
    shutil.copyfile(ROOT / "params.yaml", tmp_path / "params.yaml")
    options = ("--network", "WRN-10-1", "--repeats", "1", "--spins", "0", "--busy", "2", "--json")
    cores = len(os.sched_getaffinity(0))
    done = cli("bench", "neighbours", *options, cwd=tmp_path, OMP_NUM_THREADS=str(cores))
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout)
    spins = POLICY["GOMP_SPINCOUNT"]
    bound, yielding = (" bound", " bound or making way") if cores > 1 else ("", "")
    assert [row["variables"] for row in result["rows"]] == [
        "",
        f"GOMP_SPINCOUNT={spins}{yielding}",
        f"GOMP_SPINCOUNT={spins}{bound}",
        f"GOMP_SPINCOUNT={spins}",
        "OMP_WAIT_POLICY=passive",
        f"GOMP_SPINCOUNT=0{bound}",
    ]
    for row in result["rows"]:
        assert row["ratio"] == pytest.approx(row["busy_ms"]["median"] / row["idle_ms"]["median"])
        assert row["twins_ratio"] == pytest.approx(row["twins_ms"]["median"] / row["idle_ms"]["median"])
    assert result["fair_share"] == max(1, result["threads"] / max(cores / 3, cores - 2))


@pytest.mark.soak
def test_an_epoch_is_timed_with_its_checkpoint(
    tiny_beton: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of a copy of this code in which a save takes two seconds longer."""
    slow = tmp_path / "slow"
    for name in ("pipeline", "stages", "environment"):
        shutil.copytree(ROOT / name, slow / name, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copyfile(ROOT / "dvc.yaml", slow / "dvc.yaml")
    saving = slow / "pipeline" / "training" / "checkpoints.py"
    code, start = saving.read_text(), "        started = time.perf_counter()\n"
    saving.write_text(code.replace(start, f"{start}        time.sleep(2)\n"))
    assert saving.read_text() != code
    shutil.copyfile(ROOT / "params.yaml", tmp_path / "params.yaml")
    shutil.copytree(tiny_beton, tmp_path / train_bench.DATA)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(train_bench, "ROOT", slow)
    monkeypatch.setattr(train_bench, "EPOCH_IMAGES", 256)
    monkeypatch.setattr(train_bench, "BARE_S", 0.1)
    with process(prepared=True) as prepared:
        epoch = train_bench.end_to_end(
            "WRN-10-1", prepared, default(ways("cpu", compiled=False, backend="numpy")), silent
        )
    assert epoch.end_to_end.n == train_bench.EPOCHS - 1
    assert epoch.end_to_end.high < min(256 / 2, epoch.bare.low)
    assert epoch.lost == pytest.approx(1 - epoch.end_to_end.median / epoch.bare.median)


@pytest.mark.endurance
@pytest.mark.soak
def test_figure_4_sets_our_ratios_beside_the_papers(tmp_path: Path) -> None:
    done = cli("bench", "figure-4", "--repeats", "1", "--json", "--precision", "bf16", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout)
    assert result["precision"] == "bf16"
    assert result["machine"]["name"] == devices.facts(measuring.device())["name"]
    assert result["machine"]["threads"].isdecimal()
    assert result["machine"]["deterministic"] == "on"  # as in the process that measured, not in this one
    assert result["machine"]["kernels"].startswith(uncompiled())
    timings = {timing["network"]: timing for timing in result["timings"]}
    assert {name: timing["paper_ms"] for name, timing in timings.items()} == {
        "pre-act-ResNet-164": 85,
        "pre-act-ResNet-1001": 512,
        "WRN-40-4": 68,
        "WRN-16-10": 164,
        "WRN-28-10": 312,
    }
    reference = timings[figure_4.REFERENCE]
    for timing in timings.values():
        assert timing["ratio"] == pytest.approx(timing["ms"]["median"] / reference["ms"]["median"])
        assert timing["paper_ratio"] == pytest.approx(timing["paper_ms"] / 68)


def test_the_machine_is_told_in_words(monkeypatch: pytest.MonkeyPatch) -> None:
    """What the owner of a machine is asked to report."""
    monkeypatch.setenv("OMP_WAIT_POLICY", "passive")
    told = machine(torch.device("cpu"))
    assert {"type", "name", "threads", "torch", "cores", "deterministic"} <= set(told)
    assert told["torch"] == torch.__version__
    assert "OMP_WAIT_POLICY=passive" in told["environment"]
    assert all(told.values())
