"""A convolution of a training step on a CPU, of which convolution.cpp computes the gradient of the weights.

In bfloat16 torch's own takes up to twice as long and rounds to bfloat16; this stays float32. And torch's threads wait
for each other within it without ever sleeping, hundreds of times in a step: beside a busy neighbour, where one of them
does not run at the moment, each time costs milliseconds.
"""

import ctypes
import threading
from functools import cache
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from pipeline.kernels.build_kernels import instruction_set, library

_LANES, _TAPS = 16, 8
_CHUNK_ELEMENTS = 65_536
"""Of the input: with its gradient a chunk of that many fits a core's second-level cache."""
_LEAST_PIXELS, _MOST_PIXELS, _MOST_IMAGES = 1024, 4096, 16
"""Of the gradient in a chunk, or at least 4 images. Of fewer the sums, one for each weight and chunk, would cost too
much; of more they would round too much, pixels above all: more than 16 images only where they are tiny, or below."""
_MOST_SUMS = 7_500_000
"""Of all chunks, where they need not have more pixels for it: of many channels the sums are more than what they are
made of, so fewer and larger chunks pay."""
_ITEMS = 8
"""Of work, for as many threads; where there are fewer chunks, each is split by its output channels."""
_NEAR_WORDS = 200_000
"""Of the packed input, to stay in a core's second-level cache."""


def convolve(conv: nn.Conv2d, x: Tensor) -> Tensor:
    """conv(x) for images [B, C, H, W], by any convolution: what this file is not made for, torch does."""
    if not _suits(conv, x):
        y: Tensor = conv(x)
        return y
    x = x.to(torch.bfloat16).contiguous(memory_format=torch.channels_last)
    y = _Convolution.apply(x, conv.weight, conv.stride[0])
    return y


def _suits(conv: nn.Conv2d, x: Tensor) -> bool:
    kernel, stride, inputs = conv.kernel_size[0], conv.stride[0], conv.in_channels
    return (
        x.shape[2] % stride == 0
        and x.shape[3] % (2 * stride) == 0
        and kernel in (1, 3)
        and (inputs % _LANES == 0 or _TAPS <= inputs * kernel <= _LANES)
        and conv.out_channels % _LANES == 0
        and torch.is_grad_enabled()
        and torch.is_autocast_enabled("cpu")
        and bool(instruction_set())
    )


class _Convolution(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, stride: int) -> Tensor:
        rounded = weight.to(torch.bfloat16, memory_format=torch.channels_last)
        ctx.save_for_backward(x, rounded)
        ctx.stride = stride
        return F.conv2d(x, rounded, stride=stride, padding=weight.shape[2] // 2)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor | None, Tensor, None]:
        x, weight = ctx.saved_tensors
        dy = dy.contiguous(memory_format=torch.channels_last)
        stride, kernel = ctx.stride, weight.shape[2]
        dx = None
        if ctx.needs_input_grad[0]:
            how, wanted = ([stride] * 2, [kernel // 2] * 2, [1, 1]), [True, False, False]
            dx = torch.ops.aten.convolution_backward(dy, x, weight, None, *how, False, [0, 0], 1, wanted)[0]
        return dx, _weight_gradient(x, dy, kernel, stride), None


def _weight_gradient(x: Tensor, dy: Tensor, kernel: int, stride: int) -> Tensor:
    """float32 [O, I, kernel, kernel] of x [N, I, H, W] and dy [N, O, H / stride, W / stride], all channels_last."""
    threads, outputs = torch.get_num_threads(), dy.shape[1]
    arguments, parts, packed = _plan(*x.shape, outputs, kernel, stride, instruction_set() == "AMX")
    work = _work(parts + threads * packed)
    dw = torch.empty(outputs, kernel, kernel, x.shape[1]).permute(0, 3, 1, 2)
    addresses = x.data_ptr(), dy.data_ptr(), dw.data_ptr()
    library().weight_gradient(*addresses, *arguments, work, work + 4 * parts, threads)
    return dw


@cache
def _plan(
    n: int, inputs: int, height: int, width: int, outputs: int, kernel: int, stride: int, tiles: bool
) -> tuple[tuple[Any, ...], int, int]:
    """How the gradient of one shape is computed: arguments, and words of 4 bytes for all sums and for each thread."""
    pixels, sums = height * width // stride**2, kernel * kernel * inputs * outputs
    small = min(_CHUNK_ELEMENTS // (inputs * height * width), _MOST_PIXELS // pixels, _MOST_IMAGES)
    few_sums = min(-(-n // max(1, _MOST_SUMS // sums)), _MOST_PIXELS // pixels)
    chunk = min(n, max(small, _LEAST_PIXELS // pixels, 4, few_sums))
    chunks = -(-n // chunk)
    splits = max(
        k for k in range(1, outputs // _LANES + 1) if outputs % (k * _LANES) == 0 and (k - 1) * chunks < _ITEMS
    )
    block = min(inputs, _LANES)
    near = max(1, _NEAR_WORDS // (chunk * height * width * block)) * block
    shape = (ctypes.c_int64 * 7)(n, height, width, inputs, outputs, kernel, stride)  # as convolution.cpp takes it
    arguments = shape, chunk, splits, near, int(tiles)
    return arguments, chunks * sums, library().packed_words(*arguments)


_kept = threading.local()  # since Python lets another thread run meanwhile


def _work(words: int) -> int:
    """The address of memory for `words` of 4 bytes. It is kept: to take it from the allocator each time costs a step a
    hundredth."""
    memory: Tensor | None = getattr(_kept, "memory", None)
    if memory is None or memory.numel() < words:
        memory = _kept.memory = None  # not both at once
        memory = _kept.memory = torch.empty(words, dtype=torch.int32)
    return memory.data_ptr()
