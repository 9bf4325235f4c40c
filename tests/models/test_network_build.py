"""Built networks: initialisation, seeds, the order of a block's parts, gradients."""

import itertools
import math
from collections.abc import Iterator
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from paper_networks import NAMES
from torch import Tensor, nn

from pipeline.errors import UserError
from pipeline.models.build import build, initialise, skeleton
from pipeline.models.imagenet_resnet import PostActBlock
from pipeline.models.names import parse
from pipeline.models.param_count import parameters
from pipeline.models.preact_resnet import PreActBlock


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


def blocks_of(module: nn.Module) -> list[Any]:
    return [block for block in module.modules() if isinstance(block, PreActBlock | PostActBlock)]


@pytest.mark.parametrize("name", ["WRN-16-4", "WRN-22-2-B(3,1,3)", "WRN-18-1.0"])
@pytest.mark.parametrize(("mode", "axis"), [("fan_in", 1), ("fan_out", 0)])
def test_convolutions_are_he_normal(name: str, mode: str, axis: int) -> None:
    scaled = []
    for layer in make(name, conv_init=mode).modules():
        if isinstance(layer, nn.Conv2d):
            weight = layer.weight.detach().double()
            fan = weight.shape[axis] * weight.shape[2] * weight.shape[3]
            std = math.sqrt(2 / fan)
            # The sample deviation of n normals has a relative error of 1/sqrt(2n): six of those.
            assert weight.std().item() == pytest.approx(std, rel=6 / math.sqrt(2 * weight.numel()))
            scaled.append(weight.flatten() / std)
    pooled = torch.cat(scaled)
    assert pooled.mean().item() == pytest.approx(0, abs=6 / math.sqrt(pooled.numel()))
    assert (pooled**4).mean().item() == pytest.approx(3, rel=0.05)  # a uniform law would give 1.8


def test_batch_norm_starts_uniform_or_at_one() -> None:
    layers = [layer for layer in make("WRN-40-4").modules() if isinstance(layer, nn.BatchNorm2d)]
    weights = torch.cat([layer.weight.detach() for layer in layers]).sort().values
    assert 0 <= weights[0] < weights[-1] < 1
    # Kolmogorov-Smirnov distance to U(0, 1); 1.95/sqrt(n) is exceeded once in a thousand draws.
    steps = torch.arange(len(weights)) / len(weights)
    assert (weights - steps).abs().max() < 1.95 / math.sqrt(len(weights))
    for layer in layers:
        assert not layer.bias.any()
        assert layer.running_mean is not None
        assert layer.running_var is not None
        assert not layer.running_mean.any()
        assert (layer.running_var == 1).all()
        assert layer.num_batches_tracked == 0
        assert (layer.eps, layer.momentum) == (1e-5, 0.1)
    for module in make(bn_init="ones").modules():
        if isinstance(module, nn.BatchNorm2d):
            assert (module.weight == 1).all()


def test_fully_connected_layer_starts_as_torch7_did() -> None:
    fc: Any = make("WRN-16-4", 100).fc
    bound = 1 / math.sqrt(256)
    assert not fc.bias.any()
    assert 0.99 * bound < fc.weight.abs().max() <= bound
    assert fc.weight.std().item() == pytest.approx(bound / math.sqrt(3), rel=0.02)


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


def test_no_two_layers_share_their_draws() -> None:
    convs = [
        layer.weight.flatten()[:9] / layer.weight.std() for layer in make().modules() if isinstance(layer, nn.Conv2d)
    ]
    assert not any(torch.allclose(a, b, atol=0.01) for a, b in itertools.combinations(convs, 2))


@pytest.mark.parametrize("name", ["WRN-16-2-dropout", "WRN-16-2-B(3,1,3)-dropout"])
def test_dropout_acts_between_the_convolutions_after_relu_and_nowhere_else(name: str) -> None:
    rate = 0.3
    model = make(name, dropout=rate)
    torch.manual_seed(0)
    for block in blocks_of(model):
        seen: dict[str, Tensor] = {}

        def record(key: str, into: dict[str, Tensor] = seen) -> Any:
            # Cloned, because the ReLU that follows works in place.
            return lambda module, inputs, output: into.update({key: output.clone(), f"{key} input": inputs[0].clone()})

        for key, part in block.named_children():
            part.register_forward_hook(record(key))
        block(torch.randn(8, block.conv1.in_channels, 8, 8))
        assert torch.equal(seen["conv1 input"], F.relu(seen["bn1"]))
        if block.shortcut is not None:
            assert torch.equal(seen["shortcut input"], F.relu(seen["bn1"]))
        for i in range(2, block.length + 1):
            activated, given = F.relu(seen[f"bn{i}"]), seen[f"conv{i} input"]
            kept = given != 0
            torch.testing.assert_close(given[kept], activated[kept] / (1 - rate))
            dropped = (activated > 0) & ~kept
            assert (dropped.sum() / (activated > 0).sum()).item() == pytest.approx(rate, abs=0.03)
        block.eval()
        block(torch.randn(8, block.conv1.in_channels, 8, 8))
        assert torch.equal(seen["conv2 input"], F.relu(seen["bn2"]))


@pytest.mark.parametrize(
    ("name", "dropout", "message"),
    [
        ("WRN-16-2-dropout", 0.0, "dropout rate 0.0 is not between 0 and 1"),
        ("WRN-16-2-dropout", 1.0, "dropout rate 1.0 is not between 0 and 1"),
        ("WRN-16-2-dropout", float("nan"), "dropout rate nan"),
    ],
)
def test_a_dropout_rate_must_fit_the_name(name: str, dropout: float, message: str) -> None:
    with pytest.raises(UserError, match=message):
        make(name, dropout=dropout)


@pytest.mark.parametrize("name", ["WRN-16-1", "WRN-16-2", "WRN-22-2-B(3,1,3)", "WRN-40-2-B(1,3)", "pre-act-ResNet-164"])
def test_preactivation_strides_and_shortcuts(name: str) -> None:
    """The stride is on the first convolution of groups 2 and 3; the shortcut is the identity iff widths agree."""
    model, network = make(name), parse(name)
    for g, b in itertools.product((1, 2, 3), range(1, network.blocks_per_group[0] + 1)):
        block: Any = model.get_submodule(f"group{g}.block{b}")
        strides = [getattr(block, f"conv{i}").stride[0] for i in range(1, block.length + 1)]
        stride = 2 if g > 1 and b == 1 else 1
        assert strides == [stride] + [1] * (block.length - 1)
        identity = b > 1 or (g == 1 and name == "WRN-16-1")
        assert (block.shortcut is None) == identity
        if not identity:
            assert (block.shortcut.stride[0], block.shortcut.kernel_size) == (stride, (1, 1))


@pytest.mark.parametrize(("name", "strided"), [("WRN-18-1.0", 1), ("ResNet-50", 2), ("pre-ResNet-200", 2)])
def test_imagenet_strides(name: str, strided: int) -> None:
    """On the first 3x3 convolution, as in the ResNet recipe of the authors (fb.resnet.torch) and in torchvision."""
    model = skeleton(parse(name), 10)
    for g in (1, 2, 3, 4):
        block: Any = model.get_submodule(f"group{g}.block1")
        strides = [getattr(block, f"conv{i}").stride[0] for i in range(1, block.length + 1)]
        expected = [1] * block.length
        expected[strided - 1] = 2 if g > 1 else 1
        assert strides == expected


def small(name: str) -> Any:
    """The name, marked as a soak test where the network takes more than a second to build and to step."""
    slow = parse(name).depth > 200 or parameters(parse(name), 5) > 3_000_000
    return pytest.param(name, marks=[pytest.mark.soak] if slow else [])


@pytest.mark.parametrize("name", [small(name) for name in NAMES])
def test_every_network_of_the_paper_takes_a_step_forward_and_back(name: str) -> None:
    """At full depth and width, on two images of 16 x 16 pixels (CIFAR) or 64 x 64 (ImageNet), to fit in time."""
    network = parse(name)
    model = make(name, 5, dropout=0.3 if network.dropout else 0.0, bn_init="ones", conv_init="fan_out")
    size = 16 if network.image_size == 32 else 64
    images = torch.randn(2, 3, size, size, generator=torch.Generator().manual_seed(0), requires_grad=True)
    logits = model(images)
    assert logits.shape == (2, 5)
    F.cross_entropy(logits, torch.tensor([0, 3])).backward()  # type: ignore[no-untyped-call]
    for key, parameter in [("images", images), *model.named_parameters()]:
        assert parameter.grad is not None, key
        assert parameter.grad.isfinite().all(), key
        assert parameter.grad.any(), key


def test_in_place_steps_do_not_change_the_input_or_break_higher_precision_gradients() -> None:
    for block in (PreActBlock((2, 2, 2), (3, 3), 1), PostActBlock((2, 2, 2), (3, 3), 1), PreActBlock((2, 3), (3,), 2)):
        block.double()
        x = torch.randn(2, 2, 3, 3, dtype=torch.float64, requires_grad=True)
        copy = x.detach().clone()
        assert torch.autograd.gradcheck(block, (x,))
        assert torch.equal(x, copy)
