"""The 3x3 convolution with a weight gradient of ours, against torch's in double precision."""

from collections.abc import Iterator
from contextlib import contextmanager

import pytest
import torch
import torch.nn.functional as F
from hypothesis import example, given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from pipeline.models.conv3x3 import MOST_CHANNELS, conv3x3
from pipeline.models.native import multiplies_bf16

needs_instructions = pytest.mark.skipif(not multiplies_bf16(), reason="this processor has no AVX512_BF16")


def images(*shape: int) -> Tensor:
    return torch.randn(shape).bfloat16().to(memory_format=torch.channels_last)


def layer(inputs: int, outputs: int, kernel: int = 3, **settings: int) -> nn.Conv2d:
    settings = {"padding": 1, **settings}
    conv = nn.Conv2d(inputs, outputs, kernel, **settings, bias=False)  # type: ignore[arg-type]
    return conv.to(memory_format=torch.channels_last)


def step(conv: nn.Conv2d, x: Tensor, dy: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Output, gradient of the input, gradient of the weight."""
    conv.zero_grad()
    x = x.detach().requires_grad_()
    with torch.autocast("cpu", torch.bfloat16):
        y = conv3x3(conv, x)
    y.backward(dy)
    assert x.grad is not None
    assert conv.weight.grad is not None
    return y.detach(), x.grad, conv.weight.grad


def is_ours(y: Tensor) -> bool:
    return type(y.grad_fn).__name__ == "_Conv3x3Backward"


@contextmanager
def so_many_threads(count: int) -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


@needs_instructions
@settings(max_examples=60, deadline=None)
@given(
    batch=st.integers(1, 40),
    inputs=st.sampled_from([16, 32, 48, 64, 128]),
    outputs=st.sampled_from([16, 32, 64, 80]),
    height=st.integers(1, 9),
    width=st.sampled_from([2, 4, 6, 10]),
)
@example(batch=128, inputs=16, outputs=16, height=32, width=32)
@example(batch=80, inputs=64, outputs=64, height=8, width=8)
def test_the_weight_gradient_is_that_of_double_precision(
    batch: int, inputs: int, outputs: int, height: int, width: int
) -> None:
    """Products of bfloat16 are exact in float32, so only its sums round."""
    torch.manual_seed(batch)
    conv, x, dy = layer(inputs, outputs), images(batch, inputs, height, width), images(batch, outputs, height, width)
    _, _, found = step(conv, x, dy)
    weight = conv.weight.detach().double().requires_grad_()
    F.conv2d(x.double(), weight, padding=1).backward(dy.double())
    assert weight.grad is not None
    assert found.dtype == torch.float32
    assert found.stride() == conv.weight.stride()
    terms = batch * height * width
    assert (found - weight.grad).abs().max() <= 2.0**-23 * terms**0.5 * 30


@needs_instructions
def test_it_is_exact_where_sums_need_no_rounding() -> None:
    """Each tap of each pair of channels has a sum of its own: a wrong place would show."""
    torch.manual_seed(1)
    x, dy = (torch.randint(-8, 9, (6, width, 6, 8)).bfloat16() for width in (32, 48))
    x, dy = (t.to(memory_format=torch.channels_last) for t in (x, dy))
    conv = layer(32, 48)
    _, _, found = step(conv, x, dy)
    weight = conv.weight.detach().double().requires_grad_()
    F.conv2d(x.double(), weight, padding=1).backward(dy.double())
    assert weight.grad is not None
    assert torch.equal(found.double(), weight.grad)


@needs_instructions
def test_output_and_gradient_of_the_input_are_torchs_to_the_bit() -> None:
    torch.manual_seed(2)
    conv, x, dy = layer(32, 32), images(8, 32, 8, 8), images(8, 32, 8, 8)
    y, dx, _ = step(conv, x, dy)
    x = x.detach().requires_grad_()
    with torch.autocast("cpu", torch.bfloat16):
        expected = conv(x)
    expected.backward(dy)
    assert x.grad is not None
    assert torch.equal(y, expected)
    assert torch.equal(dx, x.grad)


@needs_instructions
@settings(max_examples=30, deadline=None)
@given(batch=st.integers(1, 70), channels=st.sampled_from([16, 32, 64]), threads=st.integers(2, 5))
def test_no_bit_depends_on_the_number_of_threads(batch: int, channels: int, threads: int) -> None:
    torch.manual_seed(batch)
    conv, x, dy = layer(channels, channels), images(batch, channels, 8, 8), images(batch, channels, 8, 8)
    with so_many_threads(1):
        _, _, one = step(conv, x, dy)
    for _ in range(2):
        with so_many_threads(threads):
            _, _, many = step(conv, x, dy)
        assert torch.equal(one, many)


@needs_instructions
def test_what_is_no_number_stays_visible() -> None:
    conv, x, dy = layer(16, 16), images(2, 16, 8, 8), images(2, 16, 8, 8)
    dy[1, 3, 4, 4] = float("nan")
    _, _, found = step(conv, x, dy)
    assert found[3].isnan().all()
    assert not found[4].isnan().any()


@needs_instructions
def test_of_an_input_without_gradient_none_is_made() -> None:
    conv, dy = layer(16, 16), images(2, 16, 8, 8)
    with torch.autocast("cpu", torch.bfloat16):
        y = conv3x3(conv, images(2, 16, 8, 8))
    assert is_ours(y)
    y.backward(dy)
    assert conv.weight.grad is not None


STRANGE = {
    "stride": (layer(16, 16, stride=2), (2, 16, 8, 8)),
    "kernel": (layer(16, 16, 1, padding=0), (2, 16, 8, 8)),
    "padding": (layer(16, 16, padding=0), (2, 16, 8, 8)),
    "dilation": (layer(16, 16, dilation=2, padding=2), (2, 16, 8, 8)),
    "groups": (layer(32, 32, groups=2), (2, 32, 8, 8)),
    "colours": (layer(3, 16), (2, 3, 8, 8)),
    "odd channels": (layer(16, 24), (2, 16, 8, 8)),
    "odd width": (layer(16, 16), (2, 16, 8, 7)),
    "many channels": (layer(MOST_CHANNELS + 16, 16), (2, MOST_CHANNELS + 16, 8, 8)),
    "no image": (layer(16, 16), (0, 16, 8, 8)),
}


@pytest.mark.parametrize(("conv", "shape"), STRANGE.values(), ids=list(STRANGE))
def test_what_it_is_not_made_for_torch_does(conv: nn.Conv2d, shape: tuple[int, ...]) -> None:
    x = images(*shape)
    with torch.autocast("cpu", torch.bfloat16):
        y, expected = conv3x3(conv, x), conv(x)
    assert not is_ours(y)
    assert torch.equal(y, expected)


def test_float32_evaluation_and_bf16_without_autocast_are_torchs() -> None:
    conv, x = layer(16, 16), images(2, 16, 8, 8)
    assert not is_ours(conv3x3(conv, x.float()))
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(conv3x3(conv, x), conv(x))
    with pytest.raises(RuntimeError, match=r"(?i)bfloat16|same"):
        conv3x3(conv, x)
