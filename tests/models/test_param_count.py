"""Parameters and multiply-adds in closed form, against the paper, torchvision, the modules and torch's own counter; and
as `wrn-pipe net NAME` prints them."""

import json
import subprocess
import sys
from typing import Any

import pytest
import torch
import torchvision
import typer
from hypothesis import given, settings
from hypothesis import strategies as st
from paper_networks import CLAIMED, NAMES, TORCHVISION, networks
from torch.utils.flop_counter import FlopCounterMode
from typer.testing import CliRunner

from pipeline.cli.net import net
from pipeline.models.names import Network, layers, multiply_adds, parameters, parse
from pipeline.models.resnet import skeleton


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
    """Parameters, and multiply-adds in billions, as it publishes them with its weights."""
    meta = torchvision.models.get_model_weights(TORCHVISION[name]).DEFAULT.meta
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


def net_command(*arguments: str) -> str:
    app = typer.Typer()
    app.command()(net)
    result = CliRunner().invoke(app, arguments, env={"COLUMNS": "80", "TERM": "dumb"}, catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return result.output


def test_wrn_40_1_fits_on_a_screen() -> None:
    lines = net_command("WRN-40-1").splitlines()
    assert len(lines) <= 32
    assert max(map(len, lines)) <= 80
    assert lines[0].startswith("WRN-40-1, 10 classes, one 32 x 32 image")
    cells = [[cell.strip() for cell in line.strip("│").split("│")] for line in lines if line.startswith("│")]
    assert [row[0] for row in cells if row[0].startswith("group")] == ["group1", "group2", "group3"]
    assert sum(row[0].startswith("block") for row in cells) == 18
    assert ["group3", "64 x 8 x 8", "427,456", "27,262,976"] in cells
    assert cells[-1] == ["total", "", "563,930", "83,280,512"]


def test_long_groups_are_folded_and_options_change_head_and_sizes() -> None:
    output = net_command("pre-act-ResNet-1001", "--num-classes", "100", "--image-size", "64")
    assert len(output.splitlines()) < 25
    assert "block2 ... block111, each" in output
    assert "256 x 16 x 16" in output
    assert "10,350,836" in output


def test_json_lists_every_layer() -> None:
    described = json.loads(net_command("WRN-50-2-bottleneck", "--json"))
    assert described["name"] == "WRN-50-2-bottleneck"
    assert (described["num_classes"], described["image_size"]) == (1000, 224)
    leaves = [layer for layer in described["layers"] if layer["kind"] not in ("group", "block")]
    assert sum(layer["parameters"] for layer in leaves) == described["parameters"] == 68_883_240
    assert sum(layer["multiply_adds"] for layer in leaves) == described["multiply_adds"]
    fc = {"name": "fc", "kind": "linear", "output": [1000], "parameters": 2_049_000, "multiply_adds": 2_048_000}
    assert fc in leaves
