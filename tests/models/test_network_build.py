"""Built networks: seeds, strides, gradients. What they compute, and from which weights, tests/reference holds."""

from collections.abc import Iterator
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from pipeline.errors import UserError
from pipeline.models.names import Block, parse
from pipeline.models.resnet import PostActBlock, PreActBlock, build, initialise, skeleton


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """These networks are small and deep: a second thread mostly waits, and on a busy machine for long."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def make(name: str = "WRN-16-2", num_classes: int = 10, **changes: Any) -> nn.Module:
    arguments: dict[str, Any] = {"conv_init": "fan_in", "bn_init": "uniform", "dropout": 0.0, "seed": 0} | changes
    return build(name, num_classes, **arguments)


def test_layers_of_other_networks_start_from_something_or_are_refused() -> None:
    """A network of an adopter's, whose parameters would otherwise be what lay in memory."""
    own = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Linear(8, 2)).to_empty(device="cpu")
    with torch.no_grad():
        for parameter in own.parameters():
            parameter.fill_(torch.nan)
    initialise(own, conv_init="fan_in", bn_init="ones", seed=1)
    assert all(parameter.isfinite().all() for parameter in own.parameters())
    biases = [parameter for name, parameter in own.named_parameters() if name.endswith("bias")]
    assert len(biases) == 2
    assert not any(bias.any() for bias in biases)
    with pytest.raises(TypeError, match="nothing sets the parameters of a GroupNorm"):
        initialise(nn.Sequential(nn.GroupNorm(2, 8)), conv_init="fan_in", bn_init="ones", seed=1)


def test_weights_depend_on_the_seed_and_on_nothing_else() -> None:
    torch.manual_seed(1)
    before = torch.get_rng_state()
    one = make("WRN-16-2-dropout", dropout=0.3, seed=3).state_dict()
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(2)
    # Fill the memory that a forgotten buffer would reuse with something else than zeros.
    rubbish = [torch.full_like(tensor, 77) for tensor in one.values()]
    del rubbish
    again = make("WRN-16-2", seed=3).state_dict()
    assert list(one) == list(again)
    assert all(torch.equal(one[key], again[key]) for key in one)
    other = make("WRN-16-2", seed=4).state_dict()
    drawn = [key for key in one if key.endswith("weight")]
    assert not any(torch.equal(one[key], other[key]) for key in drawn)
    assert all(tensor.device.type == "cpu" for tensor in one.values())


ONE_OF_EACH_FORM = (
    *("WRN-16-2-dropout", "WRN-16-1-B(1,3,1)", "WRN-16-1-B(3,1)", "WRN-16-1-B(3)", "WRN-22-1-B(3,3,3)"),
    *("pre-act-ResNet-110", "pre-act-ResNet-164", "WRN-18-0.25", "ResNet-50", "pre-ResNet-200"),
)
"""Depth and width only repeat them; what each network of the paper is made of, test_param_count.py tells."""


@pytest.mark.parametrize("name", ONE_OF_EACH_FORM)
def test_a_network_takes_a_step_forward_and_back(name: str) -> None:
    network = parse(name)
    model = make(name, 5, dropout=0.3 if network.dropout else 0.0, bn_init="ones", conv_init="fan_out")
    size = 64 if network.is_imagenet else 16
    images = torch.randn(2, 3, size, size, generator=torch.Generator().manual_seed(0), requires_grad=True)
    logits = model(images)
    assert logits.shape == (2, 5)
    F.cross_entropy(logits, torch.tensor([0, 3])).backward()  # type: ignore[no-untyped-call]
    for key, parameter in [("images", images), *model.named_parameters()]:
        assert parameter.grad is not None, key
        assert parameter.grad.isfinite().all(), key
        assert parameter.grad.any(), key


@pytest.mark.parametrize("dropout", [0.0, 1.0, float("nan")])
def test_a_dropout_rate_must_fit_the_name(dropout: float) -> None:
    with pytest.raises(UserError, match=f"dropout rate {dropout} is not between 0 and 1"):
        make("WRN-16-2-dropout", dropout=dropout)


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        *(("WRN-22-2-B(3,1,3)", (2, 1, 1)), ("WRN-40-2-B(1,3)", (2, 1)), ("pre-act-ResNet-164", (2, 1, 1))),
        *(("WRN-18-1.0", (2, 1)), ("ResNet-50", (1, 2, 1)), ("pre-ResNet-200", (1, 2, 1))),
    ],
)
def test_strides(name: str, expected: tuple[int, ...]) -> None:
    """On a block's first convolution for CIFAR; on the first 3x3 one for ImageNet, as in fb.resnet.torch."""
    model = skeleton(parse(name), 10)
    for block, strides in (("group2.block1", expected), ("group2.block2", (1,) * len(expected))):
        convolutions = [model.get_submodule(f"{block}.conv{i + 1}") for i in range(len(expected))]
        assert tuple(conv.stride[0] for conv in convolutions if isinstance(conv, nn.Conv2d)) == strides


def test_in_place_steps_do_not_change_the_input_or_break_higher_precision_gradients() -> None:
    for block in (
        PreActBlock(Block(parse("WRN-10-1"), "block1", (2, 2, 2), 1, True)),
        PreActBlock(Block(parse("WRN-10-1-B(3)"), "block1", (2, 3), 2, True)),
        PostActBlock(Block(parse("ResNet-18"), "block1", (2, 2, 2), 1, True)),
    ):
        block.double()
        x = torch.randn(2, 2, 3, 3, dtype=torch.float64, requires_grad=True)
        copy = x.detach().clone()
        assert torch.autograd.gradcheck(block, (x,))
        assert torch.equal(x, copy)
