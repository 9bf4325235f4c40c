"""The fused BN-ReLU against torch's own: values, gradients, running statistics, bits."""

import copy

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from pipeline.kernels.bn_relu import bn_relu
from torch import Tensor, nn

from pipeline.errors import UserError
from pipeline.models.resnet import Activate


def layer(channels: int, **settings: float) -> nn.BatchNorm2d:
    bn = nn.BatchNorm2d(channels, **settings)
    with torch.no_grad():
        bn.weight.normal_()
        bn.bias.normal_()
        bn.running_mean.normal_()
        bn.running_var.uniform_(0.5, 2.0)
    return bn


def images(*shape: int, dtype: torch.dtype = torch.float32, mean: float = 0.5, std: float = 2.0) -> Tensor:
    return (torch.randn(shape) * std + mean).to(dtype).to(memory_format=torch.channels_last)


def everything(
    bn: nn.BatchNorm2d, x: Tensor, dy: Tensor, shortcut: Tensor | None, activate: Activate = bn_relu
) -> dict[str, Tensor]:
    """Output, gradients and statistics of one training step, fused unless said."""
    x = x.detach().requires_grad_()
    same, y = activate(bn, x)
    assert torch.equal(same, x)
    outputs, gradients = ([y], [dy]) if shortcut is None else ([same, y], [shortcut, dy])
    torch.autograd.backward(outputs, gradients)
    assert x.grad is not None
    named = {"y": y.detach(), "dx": x.grad, "dweight": bn.weight.grad, "dbias": bn.bias.grad}
    return {**named, "mean": bn.running_mean, "variance": bn.running_var}


def exactly(bn: nn.BatchNorm2d, x: Tensor, dy: Tensor, shortcut: Tensor | None) -> dict[str, Tensor]:
    """The same by torch in double precision."""
    others = dy.double(), None if shortcut is None else shortcut.double()
    return everything(copy.deepcopy(bn).double(), x.double(), *others, lambda bn, x: (x, F.relu(bn(x))))


@pytest.mark.parametrize("with_shortcut", [False, True])
@pytest.mark.parametrize(("channels", "size"), [(16, 32), (64, 8), (640, 4), (48, 4)])
def test_values_gradients_and_statistics_are_those_of_double_precision(
    channels: int, size: int, with_shortcut: bool
) -> None:
    torch.manual_seed(channels)
    bn = layer(channels, eps=1e-3, momentum=0.3)
    x, dy, shortcut = (images(12, channels, size, size) for _ in range(3))
    expected = exactly(bn, x, dy, shortcut if with_shortcut else None)
    found = everything(bn, x, dy, shortcut if with_shortcut else None)
    assert int(bn.num_batches_tracked or 0) == 1
    for name, value in found.items():
        assert value.dtype == torch.float32
        # An element at the edge of the ReLU may fall on either side of it; this data has none.
        error, largest = (value.double() - expected[name]).abs().max(), expected[name].abs().max()
        assert error <= 1e-5 * largest, name


@settings(max_examples=25)
@given(batch=st.integers(1, 40), channels=st.sampled_from([16, 32, 64, 96]), size=st.sampled_from([4, 8, 12, 24]))
def test_no_bit_depends_on_threads_and_bf16_is_the_rounded_float32(batch: int, channels: int, size: int) -> None:
    torch.manual_seed(batch)
    bn = layer(channels)
    x, dy, shortcut = (images(batch, channels, size, size, dtype=torch.bfloat16) for _ in range(3))
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(1)
        one = everything(copy.deepcopy(bn), x, dy, shortcut)
        torch.set_num_threads(2 + batch % 4)
        many = everything(copy.deepcopy(bn), x, dy, shortcut)
        full = everything(copy.deepcopy(bn), x.float(), dy.float(), shortcut.float())
    finally:
        torch.set_num_threads(before)
    for name, value in one.items():
        assert value.dtype == (torch.bfloat16 if name in ("y", "dx") else torch.float32)
        assert torch.equal(many[name], value), name
        assert torch.equal(full[name].to(value.dtype), value), name


def test_a_mean_far_from_zero_costs_no_precision_in_the_variance() -> None:
    torch.manual_seed(0)
    bn, x = layer(16, momentum=1.0), images(64, 16, 16, 16, mean=3000.0, std=1.0)
    bn_relu(bn, x)
    assert bn.running_var is not None
    assert torch.allclose(bn.running_var.double(), x.double().var((0, 2, 3)), rtol=1e-5)


def test_nan_stays_visible() -> None:
    bn, x = layer(16), images(4, 16, 8, 8)
    x[1, 3, 2, 2] = float("nan")
    _, y = bn_relu(bn, x)
    assert y[:, 3].isnan().all()
    assert not y[:, 4].isnan().any()


def test_refusals() -> None:
    with pytest.raises(UserError, match="9 pixels of 16 channels") as refusal:
        bn_relu(layer(16), images(1, 16, 3, 3))
    assert "kernels: torch" in refusal.value.remedy
    with pytest.raises(TypeError, match="float64"):
        bn_relu(layer(16), images(4, 16, 4, 4, dtype=torch.float64))
