"""`wrn-pipe bench` and `wrn-pipe estimate`: what they compare and what follows from a rate; never how fast."""

import json
import os
import subprocess
import sys
from contextlib import nullcontext
from dataclasses import asdict
from itertools import pairwise
from pathlib import Path
from typing import Any

import psutil
import pytest
import torch
from project import ROOT, Project, WrnPipe, told

from pipeline.benchmarks import measuring, train_bench
from pipeline.benchmarks.loader_bench import WAYS
from pipeline.benchmarks.loader_bench import bench as loader_bench
from pipeline.benchmarks.measuring import ask, in_rounds, process, say_if_busy
from pipeline.benchmarks.train_bench import Way, default, training_rate, ways
from pipeline.cli.estimate import Estimate, disk, estimates_of, sums, tables_of
from pipeline.errors import UserError, WrnPipeError
from pipeline.models.names import parameters, parse
from pipeline.runner.params_file import load

RUN = "cifar10-wrn-40-1-quick-s1"


@pytest.mark.parametrize("bf16", [True, False])
@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_each_row_adds_one_thing_to_the_row_before(device: str, bf16: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    def changes(one: Way, other: Way) -> int:
        return sum(asdict(one)[key] != asdict(other)[key] for key in asdict(one))

    monkeypatch.setattr(train_bench, "computed_in", lambda asked, _: asked if bf16 else "fp32")
    listed = ways(torch.device(device), compiled=True, backend="ffcv")
    steps = [way for label, way in listed.items() if not label.endswith("instead")]
    assert steps[0] == Way()
    assert [changes(before, after) for before, after in pairwise(steps)] == [1] * (len(steps) - 1)
    assert changes(steps[-1], default(bf16)) <= (device == "cuda" or not bf16), "our convolutions are for bf16 on a CPU"
    assert list(listed)[-1] == ("torch.compile instead" if device == "cpu" else "CUDA graphs instead")


def test_rounds_give_median_and_extremes() -> None:
    taken = iter([3.0, 120.4, 1.0, 1300.0, 2.5, 99.0])
    found = in_rounds({"few": lambda: next(taken), "many": lambda: next(taken)}, 3)
    assert [str(spread) for spread in found.values()] == ["2.5 (1.0 to 3.0)", "120 (99 to 1,300)"]


def test_what_a_killed_bench_had_started_ends_with_it() -> None:
    code = """
import os, time
from pipeline.benchmarks.measuring import ask, process
with process(False) as child:
    print(ask(child, os.getpid), flush=True)
    ask(child, time.sleep, 600)
"""
    with subprocess.Popen([sys.executable, "-c", code], cwd=ROOT, stdout=subprocess.PIPE, text=True) as bench:
        assert bench.stdout
        child = psutil.Process(int(bench.stdout.readline()))
        bench.kill()
    child.wait(timeout=60)


def test_bench_train_measures_every_way_and_says_where(tiny_beton: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In this process, for a moment."""
    listed = ways(torch.device("cpu"), compiled=False, backend="numpy")
    labels = ["public port", "+ fused SGD"]
    here = {
        "MEASURE_S": 0.01,
        "DATA": tiny_beton,
        "ways": lambda *_: {label: listed[label] for label in labels},
        "peak_gemm": lambda _: 2.0,
        "process": lambda **_: nullcontext(),
        "ask": lambda _, function, *arguments: function(*arguments),
    }
    for name, value in here.items():
        monkeypatch.setattr(train_bench, name, value)
    monkeypatch.setenv("OMP_WAIT_POLICY", "passive")
    result = train_bench.bench(["WRN-10-1"], 1, "numpy", compiled=False)
    rows, machine = result["rows"], result["machine"]
    assert [tuple(row.values())[:3] for row in rows] == [("WRN-10-1", 128, each) for each in labels]
    for row in rows:
        # Three times forward, 2 FLOP for each of 12.5 million multiply-adds.
        assert row["gflops"] == pytest.approx(row["images_per_s"].median * 6 * 12_501_632 / 1e9)
        assert row["of_peak_gemm"] == row["gflops"] / 2
        assert row["speed_up"] == row["images_per_s"].median / rows[0]["images_per_s"].median
    assert {"type", "name", "threads", "torch", "cores", "deterministic"} <= set(machine)
    assert "OMP_WAIT_POLICY=passive" in machine["environment"]
    assert all(machine.values())


@pytest.mark.parametrize("way", [way for way in WAYS if "FFCV" not in way])
def test_an_epoch_delivers_every_image(tiny_beton: Path, way: str) -> None:
    epochs = WAYS[way](tiny_beton, 1)
    for _ in range(2):
        parts = list(next(epochs))
        assert sum(len(labels) for _, labels in parts) == 260
        assert parts[0][0].shape[1:] == (3, 32, 32)


def test_mistakes_are_found_before_anything_is_measured(
    tiny_beton: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for networks, message in ((["WRN-41-1"], "depth 41"), (["WRN-10-1"], "cifar10-rgb")):
        with pytest.raises(UserError, match=message):
            train_bench.bench(networks, 1, "numpy", compiled=False)
    with pytest.raises(UserError, match="4097 workers, but this process may use"):
        loader_bench(tiny_beton, ["ours over numpy"], [1, 4097], 1)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(UserError, match="torch sees no CUDA GPU"), process(prepared=True, setting="cuda"):
        pass


@pytest.mark.endurance
@pytest.mark.soak
def test_the_commands_measure_in_processes_of_their_own(tiny_beton: Path, tmp_path: Path) -> None:
    (tmp_path / "params.yaml").write_text((ROOT / "params.yaml").read_text())
    (tmp_path / "data" / "beton").mkdir(parents=True)
    (tmp_path / train_bench.DATA).symlink_to(tiny_beton)

    def measured(*words: str) -> Any:
        return json.loads(told(Project(tmp_path).cli("bench", *words, "--json", PYTHONPATH=str(ROOT))))

    result = measured("train", "--networks", "WRN-10-1", "--repeats", "1")
    device = torch.device(result["machine"]["type"])
    assert [row["label"] for row in result["rows"]] == list(ways(device, compiled=False, backend="ffcv"))
    assert result["machine"]["deterministic"] == "True", "as in the process that measured, not in this one"
    result = measured("loader", "--repeats", "1", "--workers", "1")
    assert [rate["way"] for rate in result["rates"]] == list(WAYS)
    assert min(rate["images_per_s"]["median"] for rate in result["rates"]) > 0
    assert (result["images"], result["machine"]["threads"]) == (260, "1")
    result = measured("figure-4", "--repeats", "1", "--precision", "bf16")
    timings = {each["network"]: each for each in result["timings"]}
    printed = {"pre-act-ResNet-164": 85, "pre-act-ResNet-1001": 512, "WRN-40-4": 68, "WRN-16-10": 164, "WRN-28-10": 312}
    assert {name: timing["paper_ms"] for name, timing in timings.items()} == printed
    for timing in timings.values():
        assert timing["ratio"] == pytest.approx(timing["ms"]["median"] / timings["WRN-40-4"]["ms"]["median"])
        assert timing["paper_ratio"] == pytest.approx(timing["paper_ms"] / 68)


# wrn-pipe estimate


def test_hours_follow_from_the_rate_and_a_finished_run_is_known(
    tmp_path: Path, wrn_pipe: WrnPipe, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = (ROOT / "params.yaml").read_text()
    (tmp_path / "params.yaml").write_text(text)
    (tmp_path / "evaluations" / RUN).mkdir(parents=True)
    (tmp_path / "evaluations" / RUN / "metrics.json").write_text("{}")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(measuring, "process", lambda **_: nullcontext())
    monkeypatch.setattr(measuring, "ask", lambda _, asked, *of, **options: 100.0 if of else asked())
    result = json.loads(told(wrn_pipe("estimate", "--json")))
    (run,) = result["runs"]
    assert (run["run"], run["done"], run["images_per_s"], run["caveats"]) == (RUN, True, 100.0, [])
    # A look at the test split after each epoch, and the evaluation.
    epochs = load(ROOT / "params.yaml").protocols["quick"].epochs
    assert run["hours"] == pytest.approx((epochs * 50_000 + (epochs + 1) * 10_000 / 3) / 100 / 3600)
    assert run["megabytes"] == pytest.approx(4e-6 * parameters(parse("WRN-40-1"), 10))
    for part, table in zip(result["sums"], ("4", "all"), strict=True):
        assert (part["table"], part["hours"], part["hours_left"]) == (table, run["hours"], 0)
    row = ["--paper-table", "4", "--row", "WRN-16-8", "--dataset", "cifar10", "--seeds", "2"]
    asked = json.loads(told(wrn_pipe("estimate", "--json", *row)))["runs"]
    assert [run["run"] for run in asked] == [f"cifar10-wrn-16-8-paper-zca-s{seed}" for seed in (1, 2)]
    shared = "  quick:\n    processes: 2\n    batch_norm: synchronised"
    (tmp_path / "params.yaml").write_text(text.replace("  quick:", shared))
    assert f"\n{RUN}: 2 processes train it; the hours are of one" in told(wrn_pipe("estimate"))


@pytest.mark.soak
def test_synchronised_networks_are_probed_as_such_and_need_no_compiler(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """By torch's own operations: the probe of another protocol says that there is no g++."""
    pytest.importorskip("pipeline.kernels.apply")
    monkeypatch.setenv("PATH", str(tmp_path))
    plan = load()
    synchronised = plan.protocols["quick"].model_copy(update={"batch_norm": "synchronised"})
    run = plan.runs[RUN].model_copy(update={"network": "WRN-10-1"})
    protocols = {**plan.protocols, "synchronised": synchronised}
    runs = {"a": run.model_copy(update={"protocol": "synchronised"}), "b": run}
    plan = plan.model_copy(update={"kernels": "compiled", "protocols": protocols, "runs": runs})
    with pytest.raises(UserError, match=r"g\+\+ not found") as error:
        estimates_of(plan, ["a", "b"])
    assert capsys.readouterr().err.count("WRN-10-1: 128 images a step") == 2
    assert "kernels: torch" in error.value.remedy


@pytest.mark.soak
def test_a_probe_that_can_not_be_compiled_fails_in_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With a g++ that knows its version and nothing else."""
    pytest.importorskip("pipeline.kernels.apply")
    broken = tmp_path / "g++"
    broken.write_text('#!/bin/sh\n[ "$1" = --version ] && echo g++ 0.1 && exit\necho error: worn out >&2\nexit 1\n')
    broken.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path / "cache"))
    with process(prepared=True) as child, pytest.raises(WrnPipeError, match=r"torch\.compile failed: .*worn out"):
        ask(child, training_rate, "WRN-10-1", 8, 32, default(False, kernels="compiled"))


def test_tables_are_summed_and_a_run_of_two_counts_once_in_all() -> None:
    plan = load()
    runs = {"a": plan.runs[RUN], "b": plan.runs[RUN].model_copy(update={"network": "WRN-40-4"})}
    plan = plan.model_copy(update={"runs": runs})
    made = [
        Estimate("a", "WRN-40-1", ("4",), 100.0, 1.0, 2.0, True, ()),
        Estimate("b", "WRN-40-4", ("4", "5"), 100.0, 10.0, 2.0, False, ()),
    ]
    assert [tuple(part.values()) for part in sums(made)] == [
        ("4", 2, 1, 11.0, 10.0, 4.0),
        ("5", 1, 0, 10.0, 10.0, 2.0),
        ("all", 2, 1, 11.0, 10.0, 4.0),
    ]
    space = disk(plan, made)
    assert space["raw"] == space["beton"] == pytest.approx(60_000 * (32 * 32 * 3 + 8) / 1e6)
    assert space["dvc_copy"] == pytest.approx(space["raw"] + space["beton"] + 4)
    assert space["checkpoints"] == 12


def test_a_run_stands_in_the_tables_that_its_protocol_answers() -> None:
    run = load().runs[RUN]
    for network, protocol, tables in (
        *(("WRN-40-1", "quick", ("4",)), ("WRN-40-1", "paper-zca", ("4",))),
        *(("WRN-40-1", "paper-meanstd", ()), ("WRN-16-1", "quick", ())),
    ):
        assert tables_of(run.model_copy(update={"network": network, "protocol": protocol})) == tables


def test_a_busy_machine_is_said(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr("os.sched_getaffinity", lambda _: set(range(4)))
    for busy, said in ((0.3, ""), (3.84, "others were at work here in the last minute (load 3.8 on 4 cores)")):
        monkeypatch.setattr("os.getloadavg", lambda busy=busy: (busy, 0.0, 0.0))
        say_if_busy()
        assert capsys.readouterr().err.partition(":")[0].strip() == said
