"""Trainings that processes share, by gloo on real images: whose gradients add up to what, and always the same bits.

The processes are those of crew.py, started once for this file. That the updates with synchronised batch normalisation
are those of one process is in tests/reference.
"""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import crew
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from project import make_project
from safetensors.torch import load_file

from pipeline.data.batches import Inputs, Preprocessing
from pipeline.data.loader import Loader
from pipeline.data.sampler import Shard, sample_order
from pipeline.models.resnet import build
from pipeline.training.ranks import synchronise

CPU = torch.device("cpu")
Tensors = dict[str, torch.Tensor]
THREE = {"processes": 3, "batch_size": 51, "epochs": 2, "flip": "half-batch", "crop": "per-batch", "precision": "fp32"}
THREE["weight_average"] = {"decay": 0.5, "every": 3}
DROPOUT = {"processes": 2, "batch_size": 52, "epochs": 1, "precision": "fp32", "dropout": 0.3}
SCENARIOS = [
    {"name": "dropout", "size": 2, "protocol": DROPOUT, "run": {"network": "WRN-10-1-dropout"}},
    {"name": "thirds", "size": 3, "protocol": THREE},
    {"name": "thirds-again", "size": 3, "protocol": THREE, "stop": [2, 3]},
    {"name": "thirds-end", "size": 3, "protocol": THREE, "scratch": "thirds-again"},
]


@pytest.fixture(scope="module")
def left(tmp_path_factory: pytest.TempPathFactory, tiny_beton: Path) -> Path:
    """The folder of what the scenarios left."""
    return crew.run(make_project(tmp_path_factory.mktemp("crew") / "project", beton=tiny_beton), SCENARIOS)


def tensors(scenario: Path, rank: int = 0) -> Tensors:
    return load_file(scenario / f"rank-{rank}.safetensors")


def told(scenario: Path, rank: int = 0) -> Any:
    return json.loads((scenario / f"rank-{rank}.json").read_text())


def largest_difference(found: Tensors, expected: Tensors) -> float:
    """Of any number, as a share of the largest of its tensor."""
    return max(
        float((found[key] - value).abs().max() / value.abs().max().clamp(min=1e-12)) for key, value in expected.items()
    )


def of(found: Tensors, prefix: str) -> Tensors:
    """Those whose names begin with the prefix, by the rest of their names."""
    return {key.removeprefix(prefix): value for key, value in found.items() if key.startswith(prefix)}


def same_bits(one: Tensors, other: Tensors) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[key], other[key]) for key in one)


def batches(folder: Path, shard: Shard, size: int) -> Iterator[Any]:
    loader, preprocessing = Loader(folder, "train", shard.size(size), "numpy"), Preprocessing("meanstd")
    inputs = Inputs(loader, preprocessing, "half-batch", "per-batch", 1, torch.float32, CPU, shard, size)
    return inputs.batches(0, sample_order(1, 0, 260))


def exactly(folder: Path, shard: Shard) -> tuple[Tensors, Tensors]:
    """Gradients, and running statistics after them, of a share of the first mini-batch: one process, torch's own batch
    normalisation, float64."""
    model = build("WRN-10-1", 10, conv_init="fan_out", bn_init="ones", seed=1).double()
    batch = next(batches(folder, shard, 51))
    F.cross_entropy(model(batch.images.double()), batch.labels, label_smoothing=0.1).backward()
    gradients = {key: p.grad.float() for key, p in model.named_parameters() if p.grad is not None}
    return gradients, {key: b.float() for key, b in model.named_buffers() if "running" in key}


@pytest.mark.soak
def test_all_stop_after_the_same_step_when_one_is_asked_to_and_resume_to_the_same_bits(left: Path) -> None:
    """The first steps are done twice, so that a training repeats is part of it. Three processes add up, where the order
    of a sum counts, and the weights are averaged."""
    expected, begun, ended = (tensors(left / name) for name in ("thirds", "thirds-again", "thirds-end"))
    for rank in range(3):
        assert told(left / "thirds-again", rank)["stopped"].startswith("in epoch 1 after step 3, ")
    for step in (1, 2, 3):
        assert same_bits(of(begun, f"{step}."), of(expected, f"{step}."))
    for part in ("conv1.", "group", "bn.", "fc."):
        assert same_bits(of(ended, part), of(expected, part))
    assert told(left / "thirds-end")["history"] == told(left / "thirds")["history"]
    assert [device["processes"] for device in told(left / "thirds-end")["devices"]] == [3]


@pytest.mark.soak
def test_each_process_normalises_by_its_own_share_and_the_first_keeps_its_statistics(
    left: Path, tiny_beton: Path
) -> None:
    """The first step by hand: the mean of the gradients of three networks that see 17 images each."""
    shares = [exactly(tiny_beton, Shard(rank, 3)) for rank in range(3)]
    for rank, (_, statistics) in enumerate(shares):
        assert largest_difference(of(tensors(left / "thirds", rank), "1."), statistics) < 1e-4
    mean = {key: torch.stack([gradients[key] for gradients, _ in shares]).mean(0) for key in shares[0][0]}
    found = of(tensors(left / "thirds"), "1.gradient.")
    # A ReLU whose input rounds to the other side of 0 in fp32 changes what lies below it: by 0.7 % here, above it 1e-6.
    assert largest_difference(found, mean) < 2e-2
    above = {key: value for key, value in mean.items() if key.startswith(("bn.", "fc."))}
    assert largest_difference(found, above) < 2e-5


@pytest.mark.soak
def test_no_two_processes_or_steps_share_dropout_masks(left: Path) -> None:
    seeds = [seed for rank in range(2) for seed in told(left / "dropout", rank)["seeds"]]
    assert len(set(seeds)) == len(seeds) == 2 * 5


@given(n=st.integers(0, 300), batch_size=st.integers(1, 70), of=st.integers(1, 9))
def test_every_sample_is_one_process_s_and_a_mini_batch_stays_one(n: int, batch_size: int, of: int) -> None:
    shards = [Shard(number, of) for number in range(of)]
    positions = [shard.positions(n, batch_size) for shard in shards]
    assert np.array_equal(np.sort(np.concatenate(positions)), np.arange(n))
    for shard, own in zip(shards, positions, strict=True):
        assert np.array_equal(own, np.sort(own))
        counts = np.bincount(own // batch_size, minlength=-(-n // batch_size))
        assert all(counts[: n // batch_size] == shard.size(batch_size))
        assert len(counts) == n // batch_size or counts[-1] == shard.size(n % batch_size) <= shard.size(batch_size)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_synchronised_alone_is_batch_normalisation(dtype: torch.dtype) -> None:
    """Within the rounding of `dtype`: outputs, all gradients, running statistics. In evaluation to the bit."""
    generator = torch.Generator().manual_seed(1)
    x, gradient = (torch.randn(16, 8, 6, 6, generator=generator).mul_(3).add_(2).to(dtype) for _ in range(2))
    layers = torch.nn.Sequential(torch.nn.BatchNorm2d(8)), torch.nn.Sequential(torch.nn.BatchNorm2d(8))
    synchronise(layers[1], CPU)
    seen: list[list[torch.Tensor]] = []
    for layer in layers:
        images = x.clone().requires_grad_()
        y = layer(images)
        y.backward(gradient)
        gradients = [p.grad for p in (images, *layer.parameters())]
        seen.append([y.detach(), *(g for g in gradients if g is not None), *layer.buffers(), layer.eval()(x)])
    assert len(seen[0]) == len(seen[1]) == 1 + 3 + 3 + 1
    for plain, synchronised in zip(*seen, strict=True):
        assert plain.dtype == synchronised.dtype
        torch.testing.assert_close(synchronised, plain, rtol=1e-2 if dtype == torch.bfloat16 else 1e-5, atol=1e-5)


@pytest.mark.parametrize("device", [CPU, torch.device("cuda")])
@pytest.mark.parametrize("network", ["WRN-10-1", "ResNet-18"])
def test_names_and_weights_stay_when_normalisation_is_synchronised(network: str, device: torch.device) -> None:
    plain, other = (build(network, 10, conv_init="fan_out", bn_init="uniform", seed=1) for _ in range(2))
    synchronise(other, device)
    assert same_bits(plain.state_dict(), other.state_dict())
    assert not any(type(module) is torch.nn.BatchNorm2d for module in other.modules())
    assert any(isinstance(module, torch.nn.SyncBatchNorm) for module in other.modules()) == (device.type == "cuda")
