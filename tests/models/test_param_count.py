"""Parameters and multiply-adds in closed form, against the paper, torchvision, the modules and torch's own counter."""

import subprocess
import sys
from typing import Any

import pytest
import torch
import torchvision
from hypothesis import given, settings
from hypothesis import strategies as st
from paper_networks import CLAIMED, NAMES, networks
from torch.utils.flop_counter import FlopCounterMode

from pipeline.models.build import skeleton
from pipeline.models.names import Network, parse
from pipeline.models.param_count import layers, multiply_adds, parameters

# Multiply-adds in billions and parameters that torchvision publishes with its weights.
TORCHVISION = {
    "ResNet-18": torchvision.models.ResNet18_Weights,
    "ResNet-34": torchvision.models.ResNet34_Weights,
    "ResNet-50": torchvision.models.ResNet50_Weights,
    "ResNet-101": torchvision.models.ResNet101_Weights,
    "ResNet-152": torchvision.models.ResNet152_Weights,
    "WRN-50-2-bottleneck": torchvision.models.Wide_ResNet50_2_Weights,
    "WRN-101-2-bottleneck": torchvision.models.Wide_ResNet101_2_Weights,
}


def test_counts_as_the_paper_prints_them() -> None:
    """Every parameter count of Tables 2 to 8 whose network is built here, rounded to the printed decimals."""
    checked = set()
    for row in CLAIMED:
        if row["metric"] == "params_millions" and row["model"] in NAMES and row["model"] != "pre-act-ResNet-1001":
            network, printed = parse(row["model"]), row["value"]
            millions = parameters(network, network.num_classes) / 1e6
            assert f"{millions:.{len(printed.partition('.')[2])}f}" == printed, network.name
            checked.add(network.name)
    assert len(checked) == 34


@pytest.mark.parametrize("name", TORCHVISION)
def test_imagenet_costs_are_torchvisions(name: str) -> None:
    meta = TORCHVISION[name].DEFAULT.meta
    assert parameters(parse(name), 1000) == meta["num_params"]
    assert multiply_adds(parse(name), 224, 1000) / 1e9 == pytest.approx(meta["_ops"], abs=6e-4)


def check_against_modules(network: Network, image_size: int, num_classes: int) -> None:
    """Each layer's name, output size and parameters, and all multiply-adds."""
    module = skeleton(network, num_classes).eval()
    outputs: dict[str, tuple[int, ...]] = {}

    def observe(name: str) -> Any:
        return lambda _, inputs, output: outputs.update({name: tuple(output.shape[1:])})

    named = dict(module.named_modules())
    del named[""]
    for name, layer in named.items():
        layer.register_forward_hook(observe(name))
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        module(torch.empty(1, 3, image_size, image_size, device="meta"))
    rows = layers(network, image_size, num_classes)
    counts = {name: sum(parameter.numel() for parameter in layer.parameters()) for name, layer in named.items()}
    assert [(row.name, row.output, row.parameters) for row in rows] == [
        (name, outputs[name], count) for name, count in counts.items()
    ]
    assert 2 * multiply_adds(network, image_size, num_classes) == counter.get_total_flops()
    leaves = [row for row in rows if row.kind not in ("group", "block")]
    assert sum(row.multiply_adds for row in leaves) == multiply_adds(network, image_size, num_classes)
    assert sum(row.parameters for row in leaves) == parameters(network, num_classes)


@pytest.mark.parametrize("name", ["pre-act-ResNet-110", "pre-act-ResNet-164", "pre-ResNet-200"])
def test_the_deep_networks_as_published(name: str) -> None:
    check_against_modules(parse(name), parse(name).image_size, 10)


@settings(max_examples=15)
@given(network=networks(deep=False), image_size=st.integers(1, 300), num_classes=st.integers(1, 2000))
def test_any_network_of_any_size(network: Network, image_size: int, num_classes: int) -> None:
    """Images of odd sizes too, which every stride rounds up."""
    check_against_modules(network, image_size, num_classes)


def test_it_needs_no_torch() -> None:
    code = "import sys, pipeline.runner.plan_edit, stages.tabulate; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)
