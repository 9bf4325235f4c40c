"""Networks' names; what they cost, against the paper, torchvision, the modules and torch's own counter; and `net`."""

import csv
import json
import re
from typing import Any

import pytest
import torch
import torchvision
from hypothesis import example, given, settings
from hypothesis import strategies as st
from project import WrnPipe, told
from torch.utils.flop_counter import FlopCounterMode

from pipeline.errors import UserError
from pipeline.models.names import Network, costs, multiply_adds, parameters, parse
from pipeline.models.resnet import skeleton
from pipeline.publication.wide_resnet import PAPER

NAME = re.compile(r"(?:WRN|pre-act-ResNet|pre-ResNet|ResNet)-[^\s;]*[0-9)a-z]")
TORCHVISION = {
    **{f"ResNet-{depth}": f"resnet{depth}" for depth in (18, 34, 50, 101, 152)},
    **{f"WRN-{depth}-2-bottleneck": f"wide_resnet{depth}_2" for depth in (50, 101)},
}
"""Ours -> torchvision's name."""


@st.composite
def networks(draw: st.DrawFn) -> Network:
    """Shallow ones, of the families that have some: depth only repeats blocks."""
    family = draw(st.sampled_from(["wrn", "imagenet-basic", "imagenet-bottleneck"]))
    if family == "imagenet-basic":
        return Network(family, 18, draw(st.integers(1, 512)) / 64)
    if family == "imagenet-bottleneck":
        return Network(family, 50, draw(st.integers(1, 4)))
    kernels = tuple(draw(st.lists(st.sampled_from([1, 3]), min_size=1, max_size=5).filter(lambda block: 3 in block)))
    depth = 4 + (6 if 1 in kernels else 3 * len(kernels)) * draw(st.integers(1, 2))
    return Network("wrn", depth, draw(st.integers(1, 12)), kernels, len(kernels) > 1 and draw(st.booleans()))


@settings(max_examples=50)
@given(networks())
@example(Network("wrn", 34, 2))
@example(Network("preact-resnet", 1001))
@example(Network("imagenet-preact", 200))
def test_printing_is_the_inverse_of_parsing(network: Network) -> None:
    """So different networks have different names."""
    assert parse(network.name) == network


def test_a_network_may_be_spelt_in_two_ways() -> None:
    assert parse("WRN-40-2-B(3,3)") == parse("WRN-40-2") == Network("wrn", 40, 2)
    assert parse("ResNet-34") == parse("WRN-34-1.0") == Network("imagenet-basic", 34, 1.0)


@pytest.mark.parametrize(
    ("name", "what", "remedy"),
    [
        ("WRN-27-10", "WRN-27-10: depth 27 is not 6N+4 with N from 1", "write WRN-22-10 or WRN-28-10"),
        ("WRN-4-1", "depth 4 is not 6N+4 with N from 1", "WRN-10-1"),
        ("WRN-42-2-B(3,3,3)", "depth 42 is not 9N+4", "write WRN-40-2-B(3,3,3) or WRN-49-2-B(3,3,3)"),
        ("WRN-18-2", "depth 18 is not 6N+4", "write WRN-18-2.0 for ImageNet, or for CIFAR WRN-16-2 or WRN-22-2"),
        ("WRN-50-2", "depth 50 is not 6N+4", "write WRN-50-2-bottleneck for ImageNet"),
        ("WRN-40-2-B(5,5)", "unknown block B(5,5)", "with at least one 3, without spaces, as in B(3,1,3)"),
        ("WRN-40-2-B(3)-dropout", "B(3) has only one", "leave -dropout out"),
        ("WRN-40-0", "widen factor 0 is not a whole number from 1", "write WRN-28-10"),
        ("WRN-18-0.3", "widen factor 0.3", "WRN-18-1.5"),
        ("WRN-40-2-bottleneck", "depth 40 is not one of 50, 101, 152", "take one of these"),
        ("pre-ResNet-50", "depth 50 is not one of 200", "take one of these"),
        (
            "ResNet-21",
            "depth 21 is not one of 50, 101, 152",
            "(ImageNet's ResNets have 18 and 34 too)",
        ),
        ("WRN-34-2", "COCO detector (MultiPathNet); only its classification backbone", "WRN-34-2.0"),
        ("WRN-28-10.0", "unknown network 'WRN-28-10.0'", "names are written like WRN-28-10"),
        ("Wide-ResNet-34-10", "unknown network", "did you mean WRN-34-10?"),
        ("WRN-40-2_b(3, 1)", "unknown network", "did you mean WRN-40-2-B(3,1)?"),
        ("WRN-28-10\n", "unknown network 'WRN-28-10\\n'", "did you mean WRN-28-10?"),
    ],
)
def test_a_bad_name_says_what_is_wrong_and_what_to_write(name: str, what: str, remedy: str) -> None:
    with pytest.raises(UserError) as caught:
        parse(name)
    assert what in caught.value.what
    assert remedy in caught.value.remedy
    assert all(parse(offered) for offered in NAME.findall(caught.value.remedy))


def test_the_papers_networks_are_known_and_have_the_parameters_that_it_prints() -> None:
    """Those that it ran and the pre-activation nets it compares itself with, but no other quoted nets and not COCO's
    detector. Every count of Tables 2 to 8, rounded to the printed decimals."""
    quoted = {"NIN", "DSN", "FitNet", "Highway", "ELU", "WRN-34-2", "pre-act-ResNet-1001-batch-64"}
    quoted |= {f"{kind}-{depth}" for kind in ("original-ResNet", "stoc-depth") for depth in (110, 1202)}
    checked = set()
    for row in csv.DictReader((PAPER.folder / "claims.csv").read_text().splitlines()):
        if row["model"] in quoted:
            with pytest.raises(UserError):
                parse(row["model"])
        elif "-over-" not in row["model"]:  # a gain
            network, printed = parse(row["model"]), row["value"]
            if row["metric"] == "params_millions" and network.name != "pre-act-ResNet-1001":
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


@settings(max_examples=15)
@given(network=networks(), image_size=st.integers(1, 300), num_classes=st.integers(1, 2000))
@example(network=parse("pre-act-ResNet-110"), image_size=32, num_classes=10)
@example(network=parse("pre-act-ResNet-164"), image_size=32, num_classes=10)
@example(network=parse("pre-ResNet-200"), image_size=224, num_classes=10)
def test_each_layer_and_all_of_them_cost_what_the_module_does(
    network: Network, image_size: int, num_classes: int
) -> None:
    """Names, output sizes, of odd images too, which every stride rounds up, parameters, and all multiply-adds."""
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
    rows = costs(network, image_size, num_classes)
    counts = {name: sum(parameter.numel() for parameter in layer.parameters()) for name, layer in named.items()}
    assert [(row.name, row.output, row.parameters) for row in rows] == [
        (name, outputs[name], count) for name, count in counts.items()
    ]
    assert 2 * multiply_adds(network, image_size, num_classes) == counter.get_total_flops()
    leaves = [row for row in rows if row.kind not in ("group", "block")]
    assert sum(row.multiply_adds for row in leaves) == multiply_adds(network, image_size, num_classes)
    assert sum(row.parameters for row in leaves) == parameters(network, num_classes)


def test_net_prints_a_network_on_a_screen_or_folds_it(wrn_pipe: WrnPipe, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    lines = told(wrn_pipe("net", "WRN-40-1")).splitlines()
    assert len(lines) <= 32
    assert max(map(len, lines)) <= 80
    assert lines[0].startswith("WRN-40-1, 10 classes, one 32 x 32 image")
    cells = [[cell.strip() for cell in line.strip("│").split("│")] for line in lines if line.startswith("│")]
    assert [row[0] for row in cells if row[0].startswith("group")] == ["group1", "group2", "group3"]
    assert sum(row[0].startswith("block") for row in cells) == 18
    assert ["group3", "64 x 8 x 8", "427,456", "27,262,976"] in cells
    assert cells[-1] == ["total", "", "563,930", "83,280,512"]
    output = told(wrn_pipe("net", "pre-act-ResNet-1001", "--num-classes", "100", "--image-size", "64"))
    assert len(output.splitlines()) < 25
    for part in ("block2 ... block111, each", "256 x 16 x 16", "10,350,836"):
        assert part in output
    described = json.loads(told(wrn_pipe("net", "WRN-50-2-bottleneck", "--json")))
    assert (described["name"], described["num_classes"], described["image_size"]) == ("WRN-50-2-bottleneck", 1000, 224)
    assert described["parameters"] == 68_883_240
    fc = {"name": "fc", "kind": "linear", "output": [1000], "parameters": 2_049_000, "multiply_adds": 2_048_000}
    assert described["layers"][-1] == fc
