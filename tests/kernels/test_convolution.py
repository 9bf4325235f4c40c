"""Convolutions with a weight gradient of ours, against torch's in double precision."""

from collections.abc import Iterator

import pytest
import torch
import torch.nn.functional as F
from hypothesis import example, given, settings
from hypothesis import strategies as st
from pipeline.kernels.convolution import convolve
from torch import Tensor, nn

from pipeline.kernels import convolution
from pipeline.kernels.build_kernels import instruction_set

HERE = instruction_set()
ours = pytest.mark.skipif(not HERE, reason="on this processor all is torch's")
OTHERS = [pytest.param("AVX512_BF16", marks=pytest.mark.soak)] if HERE == "AMX" else []


@pytest.fixture(scope="module", params=[HERE, *OTHERS], autouse=True)
def by_instructions(request: pytest.FixtureRequest) -> Iterator[None]:
    """By those that are used, and by others that this processor has."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(convolution, "instruction_set", lambda: request.param)
        yield


def images(*shape: int) -> Tensor:
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


def is_ours(y: Tensor) -> bool:
    return type(y.grad_fn).__name__ == "_ConvolutionBackward"


def true_gradient(conv: nn.Conv2d, x: Tensor, dy: Tensor) -> Tensor:
    """In double precision."""
    weight = conv.weight.detach().double().requires_grad_()
    F.conv2d(x.double(), weight, stride=conv.stride, padding=conv.padding).backward(dy.double())
    assert weight.grad is not None
    return weight.grad


@ours
@settings(max_examples=80)
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
@example(batch=80, inputs=64, outputs=64, height=8, width=8, kernel=3, stride=1)
@example(batch=33, inputs=3, outputs=16, height=32, width=32, kernel=3, stride=1)
@example(batch=9, inputs=160, outputs=320, height=8, width=8, kernel=3, stride=2)
@example(batch=9, inputs=160, outputs=320, height=8, width=8, kernel=1, stride=2)
@example(batch=20, inputs=256, outputs=256, height=8, width=8, kernel=3, stride=1)
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
    x, dy = images(batch, inputs, height * stride, width * stride), images(batch, outputs, height, width)
    _, _, found = step(conv, x, dy)
    assert found.dtype == torch.float32
    assert found.stride() == conv.weight.stride()
    terms = batch * height * width
    # The rounding of sums in a row is a random walk: in 6,398 drawn shapes up to 50 of these, and of few terms up to
    # 1.4 times the root of their number.
    assert (found - true_gradient(conv, x, dy)).abs().max() <= 2.0**-23 * terms**0.5 * min(60, 2 * terms**0.5)


@ours
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


@ours
@settings(max_examples=30)
@given(batch=st.integers(1, 70), channels=st.sampled_from([16, 32, 64, 256]), threads=st.integers(2, 5))
def test_no_bit_depends_on_the_number_of_threads(batch: int, channels: int, threads: int) -> None:
    torch.manual_seed(batch)
    conv, x, dy = layer(channels, channels), images(batch, channels, 8, 8), images(batch, channels, 8, 8)
    before, found = torch.get_num_threads(), []
    try:
        for count in (1, threads):
            torch.set_num_threads(count)
            found.append(step(conv, x, dy)[2])
    finally:
        torch.set_num_threads(before)
    assert torch.equal(*found)


@ours
def test_nan_stays_visible() -> None:
    conv, x, dy = layer(16, 16), images(2, 16, 8, 8), images(2, 16, 8, 8)
    dy[1, 3, 4, 4] = float("nan")
    _, _, found = step(conv, x, dy)
    assert found[3].isnan().all()
    assert not found[4].isnan().any()


@pytest.mark.parametrize(
    ("conv", "shape"),
    [
        (layer(16, 16, 5), (2, 16, 8, 8)),
        (layer(16, 24), (2, 16, 8, 8)),
        (layer(16, 16), (2, 16, 8, 7)),
        (layer(16, 16, stride=2), (2, 16, 7, 8)),
    ],
    ids=["kernel", "odd outputs", "odd width", "odd height, stride 2"],
)
def test_what_it_is_not_made_for_torch_does(conv: nn.Conv2d, shape: tuple[int, ...]) -> None:
    """By its layer or by its images; and evaluation, and all that is fp32."""
    x = images(*shape)
    with torch.autocast("cpu", torch.bfloat16):
        y, expected = convolve(conv, x), conv(x)
    assert not is_ours(y)
    assert torch.equal(y, expected)
    conv = layer(16, 16)
    assert not is_ours(convolve(conv, images(2, 16, 8, 8).float()))
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        assert not is_ours(convolve(conv, images(2, 16, 8, 8)))
