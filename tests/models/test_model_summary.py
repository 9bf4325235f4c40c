"""Parameter counts and multiply-adds against the paper, torchvision and torch's own counter."""

import csv

import pytest
import torch
import torchvision
from torch.utils.flop_counter import FlopCounterMode

from pipeline.errors import UserError
from pipeline.models.build import count_parameters, skeleton
from pipeline.models.model_summary import layers
from pipeline.models.names import Network, known_names, parse
from pipeline.publication.claims import CLAIMS

# facts/paper.md, "Exact trainable-parameter counts"; (CIFAR-10, CIFAR-100 where given).
EXACT = {
    "WRN-40-2-B(1,3,1)": (1_429_082,),
    "WRN-40-2-B(3,1)": (1_211_354,),
    "WRN-40-2-B(1,3)": (1_297_370,),
    "WRN-40-2-B(3,1,1)": (1_343_066,),
    "WRN-28-2-B(3,3)": (1_467_610,),
    "WRN-22-2-B(3,1,3)": (1_145_498,),
    "WRN-40-2-B(3)": (2_243_546, 2_255_156),
    "WRN-40-2-B(3,3)": (2_243_546, 2_255_156),
    "WRN-40-2-B(3,3,3)": (2_243_546, 2_255_156),
    "WRN-40-2-B(3,3,3,3)": (2_243_546, 2_255_156),
    "WRN-16-4": (2_748_890,),
    "WRN-52-1": (758_362,),
    "WRN-40-1": (563_930, 569_780),
    "WRN-40-2": (2_243_546, 2_255_156),
    "WRN-40-4": (8_949_210, 8_972_340),
    "WRN-40-8": (35_748_314, 35_794_484),
    "WRN-40-10": (55_841_754, 55_899_444),
    "WRN-28-10": (36_479_194, 36_536_884),
    "WRN-28-12": (52_517_850, 52_587_060),
    "WRN-22-8": (17_158_106, 17_204_276),
    "WRN-22-10": (26_797_914, 26_855_604),
    "WRN-16-8": (10_961_370, 11_007_540),
    "WRN-16-10": (17_116_634, 17_174_324),
}

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


def multiply_adds(network: Network, image_size: int | None = None, num_classes: int | None = None) -> int:
    return sum(row.multiply_adds for row in layers(network, image_size, num_classes) if "." not in row.name)


@pytest.mark.parametrize("name", EXACT)
def test_exact_parameter_counts(name: str) -> None:
    for classes, count in zip((10, 100), EXACT[name], strict=False):
        assert count_parameters(skeleton(parse(name), classes)) == count


def test_counts_as_the_paper_prints_them() -> None:
    """Every parameter count of Tables 2 to 8 whose network is built here, rounded to the printed decimals."""
    known, checked = set(known_names()), set()
    with CLAIMS.open() as file:
        rows = [row for row in csv.DictReader(file) if row["metric"] == "params_millions" and row["model"] in known]
    for row in rows:
        network, printed = parse(row["model"]), row["value"]
        if network.name == "pre-act-ResNet-1001":
            continue
        millions = count_parameters(skeleton(network, network.num_classes)) / 1e6
        assert f"{millions:.{len(printed.partition('.')[2])}f}" == printed, network.name
        checked.add(network.name)
    assert len(checked) == 33


def test_the_quoted_count_of_pre_act_resnet_1001_leaves_out_batch_norm() -> None:
    """Table 5 quotes 10.2 million; the whole network has 10.3."""
    rows = layers(parse("pre-act-ResNet-1001"))
    assert f"{sum(row.parameters for row in rows if row.kind in ('conv', 'linear')) / 1e6:.1f}" == "10.2"
    assert sum(row.parameters for row in rows if "." not in row.name) == 10_327_706


@pytest.mark.parametrize("name", TORCHVISION)
def test_imagenet_costs_are_torchvisions(name: str) -> None:
    meta = TORCHVISION[name].DEFAULT.meta
    network = parse(name)
    assert sum(row.parameters for row in layers(network) if "." not in row.name) == meta["num_params"]
    assert multiply_adds(network) / 1e9 == pytest.approx(meta["_ops"], abs=6e-4)


@pytest.mark.parametrize(
    "name", ["WRN-40-1", "WRN-22-2-B(3,1,3)", "WRN-40-2-B(3)", "pre-act-ResNet-164", "pre-ResNet-200"]
)
@pytest.mark.parametrize("size", [32, 45])
def test_multiply_adds_are_half_of_torchs_own_count(name: str, size: int) -> None:
    module = skeleton(parse(name), 7).eval()
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        module(torch.empty(1, 3, size, size, device="meta"))
    assert 2 * multiply_adds(parse(name), size, 7) == counter.get_total_flops()


@pytest.mark.parametrize("name", ["WRN-40-1", "WRN-18-1.5", "ResNet-50", "pre-act-ResNet-110", "pre-ResNet-200"])
def test_rows_add_up(name: str) -> None:
    network = parse(name)
    rows = layers(network, num_classes=9)
    total = count_parameters(skeleton(network, 9))
    leaves = [row for row in rows if row.kind not in ("group", "block")]
    assert sum(row.parameters for row in leaves) == total
    assert sum(row.parameters for row in rows if "." not in row.name) == total
    assert sum(row.multiply_adds for row in leaves) == multiply_adds(network, num_classes=9)
    for group in (row for row in rows if row.kind == "group"):
        blocks = [row for row in rows if row.kind == "block" and row.name.startswith(f"{group.name}.")]
        assert sum(row.parameters for row in blocks) == group.parameters
        assert sum(row.multiply_adds for row in blocks) == group.multiply_adds
    assert rows[-1].output == (9,)


@pytest.mark.parametrize(
    ("name", "outputs"),
    [
        ("WRN-16-4", [(16, 32, 32), (64, 32, 32), (128, 16, 16), (256, 8, 8), (256, 8, 8), (10,)]),
        ("pre-act-ResNet-164", [(16, 32, 32), (64, 32, 32), (128, 16, 16), (256, 8, 8), (256, 8, 8), (10,)]),
        (
            "WRN-18-1.5",
            [(64, 112, 112), (64, 112, 112), (96, 56, 56), (192, 28, 28), (384, 14, 14), (768, 7, 7), (1000,)],
        ),
    ],
)
def test_group_widths_and_sizes(name: str, outputs: list[tuple[int, ...]]) -> None:
    """Table 1 for CIFAR; a 64-wide stem at every width for ImageNet (Table 7)."""
    assert [row.output for row in layers(parse(name)) if "." not in row.name] == outputs


def test_a_size_or_class_count_below_one_is_refused() -> None:
    with pytest.raises(UserError, match="images of 0 pixels"):
        layers(parse("WRN-16-4"), 0)
    with pytest.raises(UserError, match="0 classes"):
        layers(parse("WRN-16-4"), num_classes=0)
