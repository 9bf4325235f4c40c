"""Convolutions with a weight gradient of ours, against torch's in double precision."""

import re
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
import torch
import torch.nn.functional as F
from hypothesis import example, given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from pipeline.kernels import build_kernels, convolution
from pipeline.kernels.build_kernels import COMPILE, library, multiplies
from pipeline.kernels.convolution import convolve, made_for

HERE = multiplies()
OTHERS = {"AMX": ("AVX512_BF16", "AVX2"), "AVX512_BF16": ("AVX2",)}.get(HERE, ())
WITHOUT_AVX512 = "-mno-avx512f"


@pytest.fixture(scope="module", params=[HERE, *(pytest.param(name, marks=pytest.mark.soak) for name in OTHERS)])
def by_instructions(request: pytest.FixtureRequest) -> Iterator[str]:
    """By those that are used, and by others that this processor has."""
    caches = library, multiplies, convolution._plan
    with pytest.MonkeyPatch.context() as patch:
        if (HERE, request.param) == ("AMX", "AVX512_BF16"):
            patch.setattr(convolution, "multiplies", lambda: request.param)
        elif request.param != HERE:
            patch.setattr(build_kernels, "COMPILE", (*COMPILE, WITHOUT_AVX512))
        for kept in caches:
            kept.cache_clear()
        assert convolution.multiplies() == request.param
        yield request.param
    for kept in caches:
        kept.cache_clear()


@pytest.fixture
def ours(by_instructions: str) -> None:
    if not by_instructions:
        pytest.skip("on this processor all is torch's")


@pytest.fixture
def of_bf16(by_instructions: str) -> None:
    """Those for which torch computes the output and the gradient of the input."""
    if by_instructions not in ("AVX512_BF16", "AMX"):
        pytest.skip("done by no instructions for bfloat16")


@pytest.fixture
def of_float32(by_instructions: str) -> None:
    if by_instructions != "AVX2":
        pytest.skip("not done by AVX2")


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
    return type(y.grad_fn).__name__ in ("_ConvolutionBackward", "_DirectBackward")


@contextmanager
def so_many_threads(count: int) -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def true_gradient(conv: nn.Conv2d, x: Tensor, dy: Tensor) -> Tensor:
    """In double precision."""
    weight = conv.weight.detach().double().requires_grad_()
    F.conv2d(x.double(), weight, stride=conv.stride, padding=conv.padding).backward(dy.double())
    assert weight.grad is not None
    return weight.grad


@pytest.mark.usefixtures("ours")
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
    # The rounding of so many sums in a row is a random walk: in 6,398 drawn shapes up to 50 of these, and of few terms
    # up to 1.4 times the root of their number.
    assert (found - true_gradient(conv, x, dy)).abs().max() <= 2.0**-23 * terms**0.5 * min(60, 2 * terms**0.5)


@pytest.mark.usefixtures("ours")
@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize(("kernel", "inputs", "outputs"), [(3, 32, 48), (1, 32, 48), (3, 3, 16), (3, 256, 128)])
def test_it_is_exact_where_sums_need_no_rounding(kernel: int, inputs: int, outputs: int, stride: int) -> None:
    """Each tap of each pair of channels has a sum of its own: a wrong place would show."""
    torch.manual_seed(1)
    shapes = (6, inputs, 6 * stride, 8 * stride), (6, outputs, 6, 8)
    x, dy = (torch.randint(-8, 9, shape).bfloat16().to(memory_format=torch.channels_last) for shape in shapes)
    conv = layer(inputs, outputs, kernel, stride=stride)
    _, _, found = step(conv, x, dy)
    assert torch.equal(found.double(), true_gradient(conv, x, dy))


@pytest.mark.usefixtures("ours")
def test_images_of_float32_are_rounded_as_autocast_does() -> None:
    torch.manual_seed(3)
    conv, x, dy = layer(3, 16), torch.randn(4, 3, 8, 8), images(4, 16, 8, 8)
    y, dx, found = step(conv, x, dy)
    rounded = step(conv, x.bfloat16(), dy)
    assert torch.equal(y, rounded[0])
    assert torch.equal(found, rounded[2])
    assert dx.dtype == torch.float32
    assert torch.equal(dx, rounded[1].float())


@pytest.mark.usefixtures("of_bf16")
@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("kernel", [1, 3])
def test_output_and_gradient_of_the_input_are_torchs_to_the_bit(kernel: int, stride: int) -> None:
    torch.manual_seed(2)
    conv = layer(32, 32, kernel, stride=stride)
    x, dy = images(8, 32, 8 * stride, 8 * stride), images(8, 32, 8, 8)
    y, dx, _ = step(conv, x, dy)
    x = x.detach().requires_grad_()
    with torch.autocast("cpu", torch.bfloat16):
        expected = conv(x)
    expected.backward(dy)
    assert x.grad is not None
    assert torch.equal(y, expected)
    assert torch.equal(dx, x.grad)


@pytest.mark.usefixtures("ours")
@settings(max_examples=30)
@given(batch=st.integers(1, 70), channels=st.sampled_from([16, 32, 64, 256]), threads=st.integers(2, 5))
def test_no_bit_depends_on_the_number_of_threads(batch: int, channels: int, threads: int) -> None:
    torch.manual_seed(batch)
    conv, x, dy = layer(channels, channels), images(batch, channels, 8, 8), images(batch, channels, 8, 8)
    with so_many_threads(1):
        _, _, one = step(conv, x, dy)
    for _ in range(2):
        with so_many_threads(threads):
            _, _, many = step(conv, x, dy)
        assert torch.equal(one, many)


@pytest.mark.usefixtures("ours")
def test_what_is_no_number_stays_visible() -> None:
    conv, x, dy = layer(16, 16), images(2, 16, 8, 8), images(2, 16, 8, 8)
    dy[1, 3, 4, 4] = float("nan")
    _, _, found = step(conv, x, dy)
    assert found[3].isnan().all()
    assert not found[4].isnan().any()


@pytest.mark.usefixtures("ours")
def test_of_an_input_without_gradient_none_is_made() -> None:
    conv, dy = layer(16, 16), images(2, 16, 8, 8)
    with torch.autocast("cpu", torch.bfloat16):
        y = convolve(conv, images(2, 16, 8, 8))
    assert is_ours(y)
    y.backward(dy)
    assert conv.weight.grad is not None


STRANGE = {
    "stride": (layer(16, 16, stride=3), (2, 16, 9, 9)),
    "kernel": (layer(16, 16, 5), (2, 16, 8, 8)),
    "oblong kernel": (nn.Conv2d(16, 16, (3, 1), padding=(1, 0), bias=False), (2, 16, 8, 8)),
    "oblong stride": (nn.Conv2d(16, 16, 3, (2, 1), padding=1, bias=False), (2, 16, 8, 8)),
    "padding": (layer(16, 16, padding=0), (2, 16, 8, 8)),
    "dilation": (layer(16, 16, dilation=2, padding=2), (2, 16, 8, 8)),
    "groups": (layer(32, 32, groups=2), (2, 32, 8, 8)),
    "bias": (nn.Conv2d(16, 16, 3, padding=1), (2, 16, 8, 8)),
    "grey": (layer(1, 16), (2, 1, 8, 8)),
    "odd inputs": (layer(24, 16), (2, 24, 8, 8)),
    "odd outputs": (layer(16, 24), (2, 16, 8, 8)),
}
STRANGE_SIZES = {
    "odd width": (layer(16, 16), (2, 16, 8, 7)),
    "odd height, stride 2": (layer(16, 16, stride=2), (2, 16, 7, 8)),
    "odd width of the output": (layer(16, 16, stride=2), (2, 16, 8, 6)),
    "no image": (layer(16, 16), (0, 16, 8, 8)),
}


@pytest.mark.usefixtures("of_bf16")
def test_what_is_made_for_it_is_known_before_the_first_step() -> None:
    assert not any(made_for(conv) for conv, _ in STRANGE.values())
    assert all(made_for(conv) for conv, _ in STRANGE_SIZES.values())


@pytest.mark.parametrize(("conv", "shape"), (STRANGE | STRANGE_SIZES).values(), ids=list(STRANGE | STRANGE_SIZES))
def test_what_it_is_not_made_for_torch_does(conv: nn.Conv2d, shape: tuple[int, ...], by_instructions: str) -> None:
    if by_instructions == "AVX2":
        pytest.skip("made for more, see below")
    x = images(*shape)
    with torch.autocast("cpu", torch.bfloat16):
        y, expected = convolve(conv, x), conv(x)
    assert not is_ours(y)
    assert torch.equal(y, expected)


def test_evaluation_and_what_is_not_autocast_to_bf16_are_torchs(by_instructions: str) -> None:
    conv, x = layer(16, 16), images(2, 16, 8, 8)
    assert is_ours(convolve(conv, x.float())) == (by_instructions == "AVX2")
    with torch.autocast("cpu", torch.float16):
        assert not is_ours(convolve(conv, x))
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(convolve(conv, x), conv(x))
    with pytest.raises(RuntimeError, match=r"(?i)bfloat16|same"):
        convolve(conv, x)


BY_TORCH = ("oblong kernel", "oblong stride", "padding", "dilation", "groups", "bias", "grey", "odd outputs")


@pytest.mark.usefixtures("of_float32")
def test_avx2_takes_more_and_leaves_the_rest_to_torch() -> None:
    for name, (conv, shape) in STRANGE.items():
        assert made_for(conv) == (name not in BY_TORCH), name
        x = torch.randn(shape)
        y, expected = convolve(conv, x), conv(x)
        assert is_ours(y) == (name not in BY_TORCH), name
        assert torch.allclose(y, expected, rtol=1e-4, atol=1e-5), name
    for name, (conv, shape) in STRANGE_SIZES.items():
        assert is_ours(convolve(conv, torch.randn(shape))) == (name in ("odd width", "odd width of the output")), name


@pytest.mark.usefixtures("of_float32")
@pytest.mark.parametrize("bf16", [False, True])
def test_by_avx2_the_gradient_of_few_input_channels_is_that_of_float32(bf16: bool) -> None:
    torch.manual_seed(5)
    conv, dtype = layer(3, 16), torch.bfloat16 if bf16 else torch.float32
    x, dy = torch.randn(2, 3, 8, 8).to(dtype).requires_grad_(), torch.randn(2, 16, 8, 8).to(dtype)
    with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
        convolve(conv, x).backward(dy)
    exact = x.detach().float().requires_grad_()
    F.conv2d(exact, conv.weight.to(dtype).float(), padding=1).backward(dy.float())
    assert x.grad is not None
    assert exact.grad is not None
    assert torch.equal(x.grad, exact.grad.to(dtype))


@pytest.mark.parametrize(
    "x",
    [torch.ones(2, 24, 8, 8), torch.ones(2, 8, 8, 8), torch.ones(16, 8, 8), torch.ones(2, 16, 8)],
    ids=["too many channels", "too few", "one image", "a row"],
)
@pytest.mark.parametrize("bf16", [False, True])
def test_images_that_do_not_fit_are_torchs_to_take_or_to_refuse(x: Tensor, bf16: bool, by_instructions: str) -> None:
    conv = layer(16, 16)
    with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
        try:
            expected = conv(x)
        except RuntimeError as error:
            with pytest.raises(RuntimeError, match=re.escape(str(error))):
                convolve(conv, x)
        else:
            assert torch.equal(convolve(conv, x), expected)


@pytest.mark.usefixtures("of_float32")
def test_by_avx2_sums_round_to_the_nearest_bf16_ties_to_even_and_stay_no_number() -> None:
    conv = layer(16, 16, 1)
    with torch.no_grad():
        conv.weight.fill_(0)
        conv.weight[:, 0] = 1
        conv.weight[:, 1] = 256
    found = []
    for parts in ((1, 1), (3, 1), (-1, -1), (1.5, 1), (0, float("inf"))):
        x = torch.zeros(1, 16, 1, 1)
        x[0, :2, 0, 0] = torch.tensor(parts)
        with torch.autocast("cpu", torch.bfloat16):
            found.append(convolve(conv, x)[0, 0].item())
    assert found == [256, 260, -256, 258, float("inf")]
    with torch.no_grad():
        conv.weight.view(torch.int32).fill_(0x7FFFFFFF)  # which would become -0 if it were rounded as a number
        with torch.enable_grad(), torch.autocast("cpu", torch.bfloat16):
            assert convolve(conv, torch.ones(1, 16, 1, 1)).isnan().all()


@pytest.mark.usefixtures("of_float32")
@settings(max_examples=120)
@given(
    batch=st.integers(1, 9),
    inputs=st.sampled_from([16, 32, 48, 160]),
    outputs=st.sampled_from([16, 32, 80]),
    height=st.integers(1, 9),
    width=st.integers(1, 40),
    kernel=st.sampled_from([1, 3, 5, 7]),
    stride=st.integers(1, 3),
    bf16=st.booleans(),
)
@example(batch=3, inputs=16, outputs=16, height=32, width=32, kernel=3, stride=1, bf16=True)
@example(batch=3, inputs=64, outputs=128, height=8, width=8, kernel=3, stride=2, bf16=True)
@example(batch=2, inputs=640, outputs=640, height=8, width=8, kernel=3, stride=1, bf16=False)
def test_by_avx2_output_and_gradients_are_those_of_double_precision(
    batch: int, inputs: int, outputs: int, height: int, width: int, kernel: int, stride: int, bf16: bool
) -> None:
    """But for the sums' rounding in float32, and one to bfloat16 at their end."""
    torch.manual_seed(batch)
    conv = layer(inputs, outputs, kernel, stride=stride)
    dtype = torch.bfloat16 if bf16 else torch.float32
    shapes = (batch, inputs, height * stride, width * stride), (batch, outputs, height, width)
    x, dy = (torch.randn(shape).to(dtype).to(memory_format=torch.channels_last) for shape in shapes)
    x.requires_grad_()
    with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
        y = convolve(conv, x)
    assert is_ours(y)
    assert y.dtype == dtype
    assert y.is_contiguous(memory_format=torch.channels_last)
    y.backward(dy)
    exact_x, exact_w = (t.detach().to(dtype).double().requires_grad_() for t in (x, conv.weight))
    exact = F.conv2d(exact_x, exact_w, stride=stride, padding=kernel // 2)
    exact.backward(dy.double())
    sums = torch.finfo(torch.float32).eps * max(inputs, outputs) ** 0.5 * kernel * 8
    for found, true in ((y, exact), (x.grad, exact_x.grad)):
        assert found is not None
        assert true is not None
        assert ((found.double() - true).abs() <= sums + (2.0**-8 if bf16 else 2.0**-23) * true.abs()).all()
    assert conv.weight.grad is not None
    assert exact_w.grad is not None
    error = (conv.weight.grad - exact_w.grad).abs().max()
    assert error <= 2.0**-23 * (batch * height * width) ** 0.5 * 60


@pytest.mark.usefixtures("of_float32")
@pytest.mark.parametrize("stride", [1, 2, 3])
@pytest.mark.parametrize("kernel", [1, 3, 7])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
def test_by_avx2_it_is_exact_where_sums_need_no_rounding(dtype: torch.dtype, kernel: int, stride: int) -> None:
    """Of few ones and small whole weights, a wrong place would show."""
    torch.manual_seed(1)
    shapes = (2, 32, 7 * stride, 9 * stride), (2, 48, 7, 9)
    x, dy = (torch.zeros(shape, dtype=dtype).to(memory_format=torch.channels_last) for shape in shapes)
    for images in (x, dy):
        images.permute(0, 2, 3, 1).view(-1)[torch.randint(images.numel(), (150,))] = 1
    x.requires_grad_()
    conv = layer(32, 48, kernel, stride=stride)
    with torch.no_grad():
        conv.weight.copy_(torch.randint(-8, 9, conv.weight.shape))
    with torch.autocast("cpu", torch.bfloat16, enabled=dtype == torch.bfloat16):
        y = convolve(conv, x)
    y.backward(dy)
    exact_x, exact_w = (t.detach().double().requires_grad_() for t in (x, conv.weight))
    exact = F.conv2d(exact_x, exact_w, stride=stride, padding=kernel // 2)
    exact.backward(dy.double())
    for found, true in ((y, exact), (x.grad, exact_x.grad), (conv.weight.grad, exact_w.grad)):
        assert found is not None
        assert true is not None
        assert true.any()
        assert torch.equal(found.double(), true)


@pytest.mark.usefixtures("of_float32")
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
def test_by_avx2_no_bit_depends_on_the_number_of_threads(dtype: torch.dtype) -> None:
    torch.manual_seed(4)
    conv, results = layer(32, 48, stride=2), []
    data, dy = (torch.randn(shape).to(dtype) for shape in ((5, 32, 34, 18), (5, 48, 17, 9)))
    for threads in (1, 2, 3, 7):
        x = data.detach().to(memory_format=torch.channels_last).requires_grad_()
        conv.zero_grad()
        with so_many_threads(threads), torch.autocast("cpu", torch.bfloat16, enabled=dtype == torch.bfloat16):
            y = convolve(conv, x)
            y.backward(dy.to(memory_format=torch.channels_last))
        results.append((y, x.grad, conv.weight.grad))
    for result in results[1:]:
        assert all(torch.equal(found, first) for found, first in zip(result, results[0], strict=True))
