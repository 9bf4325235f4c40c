"""Our operations against torch's own in double precision: BN-ReLU, and the gradient of a convolution's weights."""

import copy
from collections.abc import Iterator

import pytest
import torch
import torch.nn.functional as F
from hypothesis import example, given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from pipeline.errors import UserError
from pipeline.kernels import apply
from pipeline.kernels.apply import bn_relu, convolve
from pipeline.kernels.build_kernels import instruction_set
from pipeline.models.resnet import Activate

HERE = instruction_set()
OTHERS = [pytest.param("AVX512_BF16", marks=pytest.mark.soak)] if HERE == "AMX" else []


def norm(channels: int, **settings: float) -> nn.BatchNorm2d:
    bn = nn.BatchNorm2d(channels, **settings)
    with torch.no_grad():
        for tensor in (bn.weight, bn.bias, bn.running_mean):
            tensor.normal_()
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
    bn = norm(channels, eps=1e-3, momentum=0.3)
    x, dy, shortcut = (images(12, channels, size, size) for _ in range(3))
    expected = exactly(bn, x, dy, shortcut if with_shortcut else None)
    found = everything(bn, x, dy, shortcut if with_shortcut else None)
    assert int(bn.num_batches_tracked or 0) == 1
    for name, value in found.items():
        assert value.dtype == torch.float32
        # An element at the edge of the ReLU may fall on either side of it; this data has none.
        error, largest = (value.double() - expected[name]).abs().max(), expected[name].abs().max()
        assert error <= 1e-5 * largest, name


@settings(max_examples=15)
@given(batch=st.integers(1, 40), channels=st.sampled_from([16, 32, 64, 96]), size=st.sampled_from([4, 8, 12, 24]))
def test_no_bit_depends_on_threads_and_bf16_is_the_rounded_float32(batch: int, channels: int, size: int) -> None:
    torch.manual_seed(batch)
    bn = norm(channels)
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
    bn, x = norm(16, momentum=1.0), images(64, 16, 16, 16, mean=3000.0, std=1.0)
    bn_relu(bn, x)
    assert bn.running_var is not None
    assert torch.allclose(bn.running_var.double(), x.double().var((0, 2, 3)), rtol=1e-5)


def test_nan_stays_visible() -> None:
    bn, x = norm(16), images(4, 16, 8, 8)
    x[1, 3, 2, 2] = float("nan")
    _, y = bn_relu(bn, x)
    assert y[:, 3].isnan().all()
    assert not y[:, 4].isnan().any()


def test_refusals() -> None:
    with pytest.raises(UserError, match="9 pixels of 16 channels") as refusal:
        bn_relu(norm(16), images(1, 16, 3, 3))
    assert "kernels: torch" in refusal.value.remedy
    with pytest.raises(TypeError, match="float64"):
        bn_relu(norm(16), images(4, 16, 4, 4, dtype=torch.float64))


@pytest.fixture(scope="module", params=[HERE, *OTHERS])
def by_instructions(request: pytest.FixtureRequest) -> Iterator[None]:
    """By those that are used, and by others that this processor has."""
    if not HERE:
        pytest.skip("on this processor all is torch's")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(apply, "instruction_set", lambda: request.param)
        yield


def bf16(*shape: int) -> Tensor:
    return torch.randn(shape).bfloat16().to(memory_format=torch.channels_last)


def layer(inputs: int, outputs: int, kernel: int = 3, **settings: int) -> nn.Conv2d:
    settings = {"padding": kernel // 2, **settings}
    conv = nn.Conv2d(inputs, outputs, kernel, **settings, bias=False)  # type: ignore[arg-type]
    return conv.to(memory_format=torch.channels_last)


def step(conv: nn.Conv2d, x: Tensor, dy: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Output, gradient of the input, gradient of the weight."""
    conv.zero_grad()
    x = x.detach().requires_grad_()
    with torch.autocast("cpu", torch.bfloat16):
        y = convolve(conv, x)
    y.backward(dy)
    assert x.grad is not None
    assert conv.weight.grad is not None
    return y.detach(), x.grad, conv.weight.grad


def true_gradient(conv: nn.Conv2d, x: Tensor, dy: Tensor) -> Tensor:
    """In double precision."""
    weight = conv.weight.detach().double().requires_grad_()
    F.conv2d(x.double(), weight, stride=conv.stride, padding=conv.padding).backward(dy.double())
    assert weight.grad is not None
    return weight.grad


@pytest.mark.usefixtures("by_instructions")
@settings(max_examples=30)
@given(
    batch=st.integers(1, 40),
    inputs=st.sampled_from([3, 4, 5, 8, 15, 16, 32, 48, 64, 128]),
    outputs=st.sampled_from([16, 32, 64, 80]),
    height=st.integers(1, 9),
    width=st.sampled_from([2, 4, 6, 10, 16, 20, 34]),
    kernel=st.sampled_from([1, 3]),
    stride=st.sampled_from([1, 2]),
)
@example(batch=128, inputs=16, outputs=16, height=32, width=32, kernel=3, stride=1)
@example(batch=33, inputs=3, outputs=16, height=32, width=32, kernel=3, stride=1)
@example(batch=9, inputs=160, outputs=320, height=8, width=8, kernel=3, stride=2)
@example(batch=3, inputs=640, outputs=640, height=8, width=8, kernel=3, stride=1)
@example(batch=3, inputs=16, outputs=16, height=3, width=64, kernel=3, stride=1)
@example(batch=40, inputs=640, outputs=640, height=8, width=8, kernel=3, stride=1)
def test_the_weight_gradient_is_that_of_double_precision(
    batch: int, inputs: int, outputs: int, height: int, width: int, kernel: int, stride: int
) -> None:
    """Products of bfloat16 are exact in float32, so only its sums round."""
    if inputs < 16:
        kernel = 3 if inputs < 8 else 1
    torch.manual_seed(batch)
    conv = layer(inputs, outputs, kernel, stride=stride)
    x, dy = bf16(batch, inputs, height * stride, width * stride), bf16(batch, outputs, height, width)
    _, _, found = step(conv, x, dy)
    assert found.dtype == torch.float32
    assert found.stride() == conv.weight.stride()
    terms = batch * height * width
    # The rounding of sums in a row is a random walk: in 6,398 drawn shapes up to 50 of these, and of few terms up to
    # 1.4 times the root of their number.
    assert (found - true_gradient(conv, x, dy)).abs().max() <= 2.0**-23 * terms**0.5 * min(60, 2 * terms**0.5)


@pytest.mark.usefixtures("by_instructions")
@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize(("kernel", "inputs", "outputs"), [(3, 32, 48), (1, 32, 48), (3, 3, 16), (3, 256, 128)])
def test_it_is_exact_where_sums_need_no_rounding(kernel: int, inputs: int, outputs: int, stride: int) -> None:
    """Each tap of each pair of channels has a sum of its own: a wrong place would show. And output and gradient of the
    input are torch's to the bit."""
    torch.manual_seed(1)
    shapes = (6, inputs, 6 * stride, 8 * stride), (6, outputs, 6, 8)
    x, dy = (torch.randint(-8, 9, shape).bfloat16().to(memory_format=torch.channels_last) for shape in shapes)
    conv = layer(inputs, outputs, kernel, stride=stride)
    y, dx, found = step(conv, x, dy)
    assert torch.equal(found.double(), true_gradient(conv, x, dy))
    x = x.detach().requires_grad_()
    with torch.autocast("cpu", torch.bfloat16):
        expected = conv(x)
    expected.backward(dy)
    assert x.grad is not None
    assert torch.equal(y, expected)
    assert torch.equal(dx, x.grad)


@pytest.mark.usefixtures("by_instructions")
@settings(max_examples=12)
@given(batch=st.integers(1, 70), channels=st.sampled_from([16, 32, 64, 256]), threads=st.integers(2, 5))
def test_no_bit_depends_on_the_number_of_threads(batch: int, channels: int, threads: int) -> None:
    torch.manual_seed(batch)
    conv, x, dy = layer(channels, channels), bf16(batch, channels, 8, 8), bf16(batch, channels, 8, 8)
    before, found = torch.get_num_threads(), []
    try:
        for count in (1, threads):
            torch.set_num_threads(count)
            found.append(step(conv, x, dy)[2])
    finally:
        torch.set_num_threads(before)
    assert torch.equal(*found)


@pytest.mark.parametrize(
    ("conv", "shape"),
    [
        (layer(16, 16, 5), (2, 16, 8, 8)),
        (layer(16, 24), (2, 16, 8, 8)),
        (layer(16, 16), (2, 16, 8, 7)),
        (layer(16, 16, stride=2), (2, 16, 7, 8)),
    ],
)
def test_what_it_is_not_made_for_torch_does(conv: nn.Conv2d, shape: tuple[int, ...]) -> None:
    """By kernel, outputs, width, or height where the stride is 2; and evaluation, and all that is fp32."""

    def by_us(y: Tensor) -> bool:
        return type(y.grad_fn).__name__ == "_ConvolutionBackward"

    x = bf16(*shape)
    with torch.autocast("cpu", torch.bfloat16):
        y, expected = convolve(conv, x), conv(x)
    assert not by_us(y)
    assert torch.equal(y, expected)
    conv = layer(16, 16)
    assert not by_us(convolve(conv, bf16(2, 16, 8, 8).float()))
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        assert not by_us(convolve(conv, bf16(2, 16, 8, 8)))
