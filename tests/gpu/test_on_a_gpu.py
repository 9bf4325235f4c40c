"""Trainings on a GPU that is not there: what the host asks of it, without any kernel's result.

Waiting within an epoch, tensors on a wrong device and unrepeatable kernels show here as they would on a real one.
"""

import json
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import photos
import pytest
import stand_in
from project import ROOT, RUN, Project, told

pytestmark = pytest.mark.skipif(not stand_in.TRITON.is_dir(), reason="this torch has no CUDA")

FP32 = {"precision": "fp32", "schedule": {"kind": "step", "drop_after": [1], "factor": 0.2, "reset_momentum": True}}
JITTER = {"color": "jitter-lighting"}
CASES: dict[str, tuple[str, dict[str, Any]]] = {
    "bf16": ("WRN-10-1", {"precision": "bf16"}),
    "fp32": ("WRN-10-1", FP32),
    "thin": ("WRN-40-1", {"precision": "bf16"}),
    "wide": ("WRN-28-10", FP32),
    "dropout": ("WRN-10-1-dropout", {"dropout": 0.3}),
    "ema": ("WRN-10-1", {"weight_average": {"decay": 0.9, "every": 2}}),
    "synchronised": ("WRN-10-1", {"batch_norm": "synchronised"}),
    "zca": ("WRN-10-1", {"preprocessing": "zca", "crop": "per-batch", **FP32}),
    "jpeg": ("WRN-18-1.0", {"preprocessing": "imagenet", "crop": "random-resized", "batch_size": 8, **JITTER, **FP32}),
}
OTHER_DATA = {"zca": {"representation": "zca"}, "jpeg": {"dataset": "photos", "representation": "jpeg"}}


@pytest.fixture(scope="module")
def gpu(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """The environment of a process that believes in it."""
    return stand_in.build(tmp_path_factory.mktemp("stand-in"))


@pytest.fixture
def on_gpu(project: Project, gpu: dict[str, str]) -> Callable[..., Any]:
    """Runs `python WORDS` in the project, which has a run of two epochs for each case, and the data that they read."""
    betons = project.root / "data" / "beton"
    photos.make_beton(betons / "photos-jpeg", "train", [photos.photo(k % 3) for k in range(64)], np.arange(64) % 10)
    white = np.random.default_rng(0).normal(size=(260, 32, 32, 3)).astype(np.float32)
    photos.make_beton(betons / "cifar10-tiny-zca", "train", white, np.arange(260) % 10)

    def edit(params: Any) -> None:
        params["loading"]["backend"], params["kernels"] = "numpy", "torch"
        params["datasets"]["photos"] = photos.entry_of(photos.make_tree(project.root / "tree"), classes=10)
        params["representations"]["photos-jpeg"] = {"dataset": "photos", "kind": "jpeg", "max_side": 200, "quality": 90}
        params["representations"]["cifar10-tiny-zca"] = {"dataset": "cifar10-tiny", "kind": "zca"}
        brief = {**params["protocols"].pop("brief"), "test_every": 0, "batch_size": 52}
        params["runs"] = {}
        for name, (network, changes) in CASES.items():
            of = {"dataset": "cifar10-tiny", "representation": "rgb"} | OTHER_DATA.get(name, {})
            params["protocols"][name] = {**brief, **changes}
            params["runs"][name] = {**of, "network": network, "protocol": name, "seed": 1}

    project.edit(edit)
    return lambda *words, **more: project.run(sys.executable, *words, **gpu, **more)


@pytest.fixture
def train(on_gpu: Callable[..., Any]) -> Callable[..., dict[str, Any]]:
    """What trained.py says of `KERNELS:RUN` words."""

    def train(*words: str, **more: str) -> dict[str, Any]:
        ran = on_gpu("-m", "trained", *words, **more)
        return {word: of for line in told(ran).splitlines() for word, of in json.loads(line).items()}

    return train


def test_an_epoch_of_torchs_own_kernels_waits_for_nothing_and_repeats(train: Callable[..., dict[str, Any]]) -> None:
    found = train(*(f"torch:{name}" for name in CASES))
    for name, of in ((word.removeprefix("torch:"), of) for word, of in found.items()):
        assert (of["epochs"], of["unrepeatable"], of["device"]["type"]) == (2, [], "cuda"), name
        dtype = "torch.bfloat16" if CASES[name][1].get("precision", "bf16") == "bf16" else "torch.float32"
        asked = {"x": dtype, "weight": dtype, "channels_last": True, "benchmark": False, "deterministic": True}
        assert of["convolutions"] == [asked | {"tf32": False}], name
    assert found["torch:thin"]["per_step"]["kernels"] <= 600


@pytest.mark.soak
@pytest.mark.parametrize(
    ("fault", "found"), [("item", "a synchronizing CUDA operation"), ("cpu", "on the same device")]
)
def test_planted_faults_are_found(fault: str, found: str, train: Callable[..., dict[str, Any]]) -> None:
    with pytest.raises(AssertionError, match=found):
        train("torch:bf16", FAULT=fault)


FP32_ON_A_T4 = "computes in fp32, not in bf16: this cuda has no instructions for bfloat16"
OLD = {"STAND_IN_DRIVER": "12080"}
TOO_OLD = "the NVIDIA driver is for CUDA 12.8, this torch for 13.0: install a newer driver"
V100 = "stand-in for a GPU has compute capability 7.0, and this torch kernels from 7.5 on"


@pytest.mark.parametrize(
    ("setting", "machine", "said", "on", "ends"),
    [
        ("cuda", {"STAND_IN_CAPABILITY": "70"}, f"error: device: cuda, but {V100}", "", 2),
        ("cuda", OLD, f"error: device: cuda, but {TOO_OLD}", "", 2),
        pytest.param("auto", OLD, f"device: auto takes the CPU: {TOO_OLD}", "cpu", 0, marks=pytest.mark.soak),
        pytest.param("auto", {"STAND_IN_CAPABILITY": "75"}, FP32_ON_A_T4, "cuda", 0, marks=pytest.mark.soak),
    ],
    ids=["V100", "old driver", "old driver, auto", "T4, auto"],
)
def test_a_gpu_that_torch_cannot_use_is_named_and_one_without_bf16_computes_in_fp32(
    setting: str, machine: dict[str, str], said: str, on: str, ends: int, project: Project, gpu: dict[str, str]
) -> None:
    project.edit(lambda params: params.update(device=setting, kernels="torch", loading={"backend": "numpy"}))
    project.edit(lambda params: params["protocols"]["brief"].update(test_every=0))
    done = project.cli("stage", "train", RUN, MLFLOW_TRACKING_URI="none://", **gpu, **machine)
    assert (done.returncode, said in done.stderr) == (ends, True), done.stderr
    if on:
        trained_on = json.loads((project.root / "models" / RUN / "run.json").read_text())["device"]
        assert (trained_on["type"], trained_on.get("precision")) == (on, "fp32" if on == "cuda" else None)
        assert "threads" in trained_on or on == "cuda"


@pytest.mark.soak
@pytest.mark.parametrize("processes", [1, 2])
def test_a_training_by_the_real_command_stops_when_asked_to_and_continues(
    processes: int, project: Project, gpu: dict[str, str], tmp_path: Path
) -> None:
    """Two are started by torchrun, and have a GPU each."""

    def edit(params: Any) -> None:
        params["loading"]["backend"], params["kernels"] = "numpy", "torch"
        params["protocols"]["brief"].update(epochs=20, test_every=0, processes=processes)

    project.edit(edit)
    machine = {**gpu, "STAND_IN_GPUS": "2", "CUDA_VISIBLE_DEVICES": "0,1", "MLFLOW_TRACKING_URI": "none://"}
    training = project.start(tmp_path / "log", "stage", "train", RUN, "--checkpoint-steps", "1", **machine)
    while training.poll() is None and not list((project.root / "scratch").glob("*/epoch-0001-*.safetensors")):
        time.sleep(0.01)
    training.terminate()
    assert training.wait() == 143, (tmp_path / "log").read_text()
    assert "saved as scratch/" in (tmp_path / "log").read_text()
    done = project.cli("stage", "train", RUN, **machine)
    assert done.returncode == 0, done.stderr
    assert "resuming from scratch/" in done.stderr
    record = json.loads((project.root / "models" / RUN / "run.json").read_text())
    assert len(record["devices"]) == 1
    assert (record["device"]["type"], record["device"].get("processes", 1)) == ("cuda", processes)


@pytest.mark.soak
@pytest.mark.parametrize(
    "words",
    [
        ["compiled:bf16", "compiled:ema", "compiled:dropout", "graphs:dropout", "compiled:fp32", "compiled:zca"],
        ["compiled:thin"],
        pytest.param(["graphs:thin"], marks=pytest.mark.endurance),
        ["compiled:wide"],
        ["compiled:jpeg"],
    ],
    ids=["recipes", "thin", "thin by graphs", "wide", "jpeg"],
)
def test_a_compiled_epoch_waits_for_nothing_repeats_and_has_a_budget_of_launches(
    words: list[str], train: Callable[..., dict[str, Any]]
) -> None:
    for word, of in train(*words).items():
        kernels, per_step = word.partition(":")[0], of["per_step"]
        assert (of["epochs"], of["unrepeatable"]) == (2, []), word
        assert of["kernels"].startswith(f"{kernels}, torch "), word
        # Which of several is the fastest is chance: a sum must not be made in the order that it decides.
        assert not any("REDUCTION" in kind for kind in of["tried"]), word
        if kernels == "graphs":
            assert (per_step["graphs"], per_step["triton_kernels"]) == (2, 0), word
            assert per_step["kernels"] <= 60, word
        if word == "compiled:thin":
            assert per_step["triton_kernels"] <= 380, per_step
            assert per_step["kernels"] <= 100, per_step


@pytest.mark.soak
@pytest.mark.endurance
def test_the_first_day_on_a_gpu_has_been_rehearsed(gpu: dict[str, str], tmp_path: Path) -> None:
    """A second call finds nothing left to do."""
    command = sys.executable, str(ROOT / "benchmarks" / "first_gpu_day.py"), str(tmp_path), "--small"
    for _ in range(2):
        told(Project(ROOT).run(*command, **gpu))
        rows = [json.loads(line) for line in (tmp_path / "found.jsonl").read_text().splitlines()]
        assert [row["exit_code"] for row in rows if "exit_code" in row] == 7 * [0], rows
