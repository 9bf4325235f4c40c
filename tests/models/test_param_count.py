"""The closed form gives what the modules have: parameters and multiply-adds, for every network and image size."""

import subprocess
import sys

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.models.model_summary import layers
from pipeline.models.names import IMAGENET_BLOCKS, Network, known_names, parse
from pipeline.models.param_count import multiply_adds, parameters


def of_modules(network: Network, image_size: int, num_classes: int) -> tuple[int, int]:
    """(parameters, multiply-adds), counted layer by layer."""
    rows = [row for row in layers(network, image_size, num_classes) if "." not in row.name]
    return sum(row.parameters for row in rows), sum(row.multiply_adds for row in rows)


def in_closed_form(network: Network, image_size: int, num_classes: int) -> tuple[int, int]:
    return parameters(network, num_classes), multiply_adds(network, image_size, num_classes)


@pytest.mark.parametrize("name", known_names())
def test_every_network_of_the_paper_as_published(name: str) -> None:
    network = parse(name)
    for size, classes in ((network.image_size, network.num_classes), (network.image_size // 2 + 1, 100)):
        assert in_closed_form(network, size, classes) == of_modules(network, size, classes)


kernels = st.lists(st.sampled_from((1, 3)), min_size=1, max_size=4).map(tuple).filter(lambda block: 3 in block)


@st.composite
def wide(draw: st.DrawFn) -> Network:
    block = draw(kernels)
    step = 6 if 1 in block else 3 * len(block)
    return Network("wrn", 4 + step * draw(st.integers(1, 2)), draw(st.integers(1, 12)), block)


@st.composite
def imagenets(draw: st.DrawFn) -> Network:
    family = draw(st.sampled_from(list(IMAGENET_BLOCKS)))
    # The shallower ones: depth only repeats blocks.
    depth = min(IMAGENET_BLOCKS[family])
    if family == "imagenet-basic":
        return Network(family, depth, draw(st.integers(1, 256)) / 64)
    return Network(family, depth, draw(st.integers(1, 4)) if family == "imagenet-bottleneck" else 1, (1, 3, 1))


@settings(max_examples=60)
@given(network=wide() | imagenets(), image_size=st.integers(1, 300), num_classes=st.integers(1, 2000))
def test_any_network_of_any_size(network: Network, image_size: int, num_classes: int) -> None:
    """Images of odd sizes too, which every stride rounds up."""
    assert in_closed_form(network, image_size, num_classes) == of_modules(network, image_size, num_classes)


def test_it_needs_no_torch() -> None:
    code = "import sys, pipeline.runner.plan_edit, stages.tabulate; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)
