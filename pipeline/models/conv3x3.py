"""A 3x3 convolution whose weight gradient, in bfloat16 on a CPU, is computed by conv3x3.cpp.

torch's own takes half as long again for the few channels of thin networks, and rounds to bfloat16; this stays float32.
"""

import ctypes
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from pipeline.models.native import library, multiplies_bf16, pointer

MOST_CHANNELS = 128
"""Up to so many it is the faster one."""
_LANES = 16
_CHUNK_ELEMENTS = 65_536
"""Of the packed input: with its gradient a chunk fits a core's second-level cache."""


def conv3x3(conv: nn.Conv2d, x: Tensor) -> Tensor:
    """conv(x), for any convolution: what this file is not made for, torch does."""
    if not _suits(conv, x):
        y: Tensor = conv(x)
        return y
    y = _Conv3x3.apply(x.contiguous(memory_format=torch.channels_last), conv.weight)
    return y


def _suits(conv: nn.Conv2d, x: Tensor) -> bool:
    return (
        x.dtype == torch.bfloat16
        and x.device.type == "cpu"
        and conv.weight.dtype == torch.float32
        and conv.weight.requires_grad
        and conv.weight.is_contiguous(memory_format=torch.channels_last)
        and torch.is_grad_enabled()
        and torch.is_autocast_enabled("cpu")
        and torch.get_autocast_dtype("cpu") == torch.bfloat16
        and conv.bias is None
        and (conv.kernel_size, conv.stride, conv.padding, conv.dilation) == ((3, 3), (1, 1), (1, 1), (1, 1))
        and (conv.groups, conv.padding_mode) == (1, "zeros")
        and all(width % _LANES == 0 and width <= MOST_CHANNELS for width in (conv.in_channels, conv.out_channels))
        and x.shape[3] % 2 == 0
        and x.numel() > 0
        and multiplies_bf16()
    )


class _Conv3x3(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor) -> Tensor:
        rounded = weight.to(torch.bfloat16)
        ctx.save_for_backward(x, rounded)
        return F.conv2d(x, rounded, padding=1)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor | None, Tensor]:
        x, weight = ctx.saved_tensors
        dy = dy.contiguous(memory_format=torch.channels_last)
        dx = None
        if ctx.needs_input_grad[0]:
            ones = [1, 1]
            dx = torch.ops.aten.convolution_backward(
                dy, x, weight, None, ones, ones, ones, False, [0, 0], 1, [True, False, False]
            )[0]
        return dx, _weight_gradient(x, dy)


def _weight_gradient(x: Tensor, dy: Tensor) -> Tensor:
    """float32 [O, I, 3, 3] of x bfloat16 [N, I, H, W] and dy [N, O, H, W], all of them channels_last."""
    (n, inputs, height, width), outputs = x.shape, dy.shape[1]
    # Of few images in a chunk the sums would cost too much, of many there would be too few chunks for many cores.
    chunk = min(max(_CHUNK_ELEMENTS // x[0].numel(), 4), 16)
    threads = torch.get_num_threads()
    parts = torch.empty(-(-n // chunk), 9 * inputs, outputs)
    size = chunk * (height * (width + 1) * inputs + (height + 2) * (width // 2) * outputs)
    packed = torch.empty(threads, size, dtype=torch.int32)
    dw = torch.empty(outputs, inputs, 3, 3).to(memory_format=torch.channels_last)
    library().weight_gradient(
        *map(pointer, (x, dy, dw)),
        *map(ctypes.c_int64, (n, height, width, inputs, outputs, chunk)),
        *map(pointer, (parts, packed)),
        threads,
    )
    return dw
