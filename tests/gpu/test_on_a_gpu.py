"""Trainings on a GPU that is not there: what the host asks of it, without any kernel's result.

Waiting within an epoch, tensors on a wrong device and unrepeatable kernels show here as they would on a real one.
"""

import json
import sys
from collections.abc import Callable
from typing import Any

import numpy as np
import photos
import pytest
import stand_in
from project import ROOT, Project, told

pytestmark = pytest.mark.skipif(not stand_in.TRITON.is_dir(), reason="this torch has no CUDA")

FP32 = {"precision": "fp32", "schedule": {"kind": "step", "drop_after": [1], "factor": 0.2, "reset_momentum": True}}
JITTER = {"color": "jitter-lighting"}
EAGER: dict[str, tuple[str, dict[str, Any]]] = {
    "bf16": ("WRN-10-1", {"precision": "bf16"}),
    "fp32": ("WRN-10-1", FP32),
    "thin": ("WRN-40-1", {"precision": "bf16"}),
    "wide": ("WRN-28-10", FP32),
    "dropout": ("WRN-10-1-dropout", {"dropout": 0.3}),
    "ema": ("WRN-10-1", {"weight_average": {"decay": 0.9, "every": 2}}),
    "synchronised": ("WRN-10-1", {"batch_norm": "synchronised"}),
    "zca": ("WRN-10-1", {"preprocessing": "zca", "crop": "per-batch", "batch_size": 8, **FP32}),
    "jpeg": ("WRN-18-1.0", {"preprocessing": "imagenet", "crop": "random-resized", "batch_size": 8, **JITTER, **FP32}),
}
OTHER_DATA = {"zca": {"representation": "zca"}, "jpeg": {"dataset": "photos", "representation": "jpeg"}}


@pytest.fixture(scope="module")
def gpu(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """The environment of a process that believes in it."""
    return stand_in.build(tmp_path_factory.mktemp("stand-in"))


@pytest.fixture
def train(project: Project, gpu: dict[str, str]) -> Callable[..., dict[str, Any]]:
    """Trains runs of the project, which has one of two epochs for each case, and the data that they read."""
    betons, labels = project.root / "data" / "beton", np.arange(64) % 10
    photos.make_beton(betons / "photos-jpeg", "train", [photos.photo(k % 3) for k in range(64)], labels)
    white = np.random.default_rng(0).normal(size=(64, 32, 32, 3)).astype(np.float32)
    photos.make_beton(betons / "cifar10-tiny-zca", "train", white, labels)

    def edit(params: Any) -> None:
        params["loading"]["backend"] = "numpy"
        params["datasets"]["photos"] = photos.entry_of(photos.make_tree(project.root / "tree"), classes=10)
        params["representations"]["photos-jpeg"] = {"dataset": "photos", "kind": "jpeg", "max_side": 200, "quality": 90}
        params["representations"]["cifar10-tiny-zca"] = {"dataset": "cifar10-tiny", "kind": "zca"}
        brief = {**params["protocols"].pop("brief"), "test_every": 0, "batch_size": 52}
        params["runs"] = {}
        for name, (network, changes) in EAGER.items():
            of = {"dataset": "cifar10-tiny", "representation": "rgb"} | OTHER_DATA.get(name, {})
            params["protocols"][name] = {**brief, **changes}
            params["runs"][name] = {**of, "network": network, "protocol": name, "seed": 1}

    def train(kernels: str, *runs: str, **more: str) -> dict[str, Any]:
        project.edit(lambda params: params.update(kernels=kernels))
        environment = gpu | {"PYTHONPATH": str(project.root)} | more
        lines = told(project.run(sys.executable, str(stand_in.HERE / "trained.py"), *runs, **environment)).splitlines()
        return {run: of for line in lines for run, of in json.loads(line).items()}

    project.edit(edit)
    return train


def test_an_epoch_of_torchs_own_kernels_waits_for_nothing_and_repeats(train: Callable[..., dict[str, Any]]) -> None:
    found = train("torch", *EAGER)
    for name, of in found.items():
        assert (of["epochs"], of["unrepeatable"], of["device"]["type"]) == (2, [], "cuda"), name
        dtype = "torch.bfloat16" if EAGER[name][1].get("precision", "bf16") == "bf16" else "torch.float32"
        asked = {"x": dtype, "weight": dtype, "channels_last": True, "benchmark": False, "deterministic": True}
        assert of["convolutions"] == [asked | {"tf32": False}], name
    assert found["thin"]["per_step"]["kernels"] <= 600


@pytest.mark.soak
@pytest.mark.parametrize(
    ("fault", "found"), [("item", "a synchronizing CUDA operation"), ("cpu", "on the same device")]
)
def test_planted_faults_are_found(fault: str, found: str, train: Callable[..., dict[str, Any]]) -> None:
    with pytest.raises(AssertionError, match=found):
        train("torch", "bf16", FAULT=fault)


PROBE = """
from pipeline.training.device import choose, computed_in, facts
device = choose("auto")
print(device, computed_in("bf16", device), "threads" in facts(device))
choose("cuda")
"""


@pytest.mark.parametrize(
    ("machine", "found", "why"),
    [
        ({}, "cuda:0 bf16 False", ""),
        ({"STAND_IN_CAPABILITY": "75"}, "cuda:0 fp32 False", ""),
        ({"STAND_IN_CAPABILITY": "70"}, "cpu", "has compute capability 7.0, and this torch kernels from 7.5 on"),
        ({"STAND_IN_DRIVER": "12080"}, "cpu", "the NVIDIA driver is for CUDA 12.8, this torch for 13.0"),
    ],
    ids=["H100", "T4", "V100", "old driver"],
)
def test_a_gpu_that_torch_cannot_use_is_named_and_one_without_bf16_computes_in_fp32(
    gpu: dict[str, str], machine: dict[str, str], found: str, why: str
) -> None:
    done = Project(ROOT).run(sys.executable, "-c", PROBE, **gpu | machine)
    assert done.stdout.startswith(found), done.stderr
    assert why in done.stderr.splitlines()[0] if why else done.returncode == 0, done.stderr
    assert ("device: cuda, but" in done.stderr) == bool(why)


@pytest.mark.soak
def test_a_compiled_epoch_waits_for_nothing_and_repeats(train: Callable[..., dict[str, Any]]) -> None:
    for name, of in train("compiled", "bf16", "fp32", "dropout").items():
        assert (of["epochs"], of["unrepeatable"]) == (2, []), name
        assert of["kernels"].startswith("compiled, torch "), name
        assert of["per_step"]["triton_kernels"] > 0, name
