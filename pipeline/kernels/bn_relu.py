"""BatchNorm2d in training mode and the ReLU behind it as one operation on the CPU, by bn_relu.cpp.

Half the memory traffic of torch's separate operations, which is what most of a narrow network's step waits for. The
gradient formulas are torch's; rounding differs. With the same compiler and processor kind the result is the same to the
bit, for any number of threads.
"""

import math
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from pipeline.errors import UserError
from pipeline.kernels.build_kernels import library
from pipeline.models.resnet import batch_norm_relu

PANEL, BLOCK = 64, 256
"""As in bn_relu.cpp."""


def bn_relu(bn: nn.BatchNorm2d, x: Tensor) -> tuple[Tensor, Tensor]:
    """`x` itself and relu(bn(x)), for x float32 or bfloat16 [B, C, H, W] on the CPU; moves bn's running statistics.

    Take the first output for a shortcut: its gradient is then added where that of `x` is written.
    Raises UserError when pixels do not fill the kernel's rows.
    """
    if not bn.training:
        return batch_norm_relu(bn, x)
    channels, pixels = x.shape[1], x.numel() // x.shape[1]
    if x.numel() % math.lcm(channels, PANEL):
        raise UserError(
            f"kernels: fused cannot take {pixels} pixels of {channels} channels", "set kernels: torch in params.yaml"
        )
    assert bn.num_batches_tracked is not None
    bn.num_batches_tracked.add_(1)
    both: tuple[Tensor, Tensor] = _BatchNormReLU.apply(
        x.contiguous(memory_format=torch.channels_last), bn.weight, bn.bias, bn
    )
    return both


class _BatchNormReLU(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor, bn: Any) -> tuple[Tensor, Tensor]:
        channels = x.shape[1]
        width = math.lcm(channels, PANEL)
        rows = x.numel() // width
        y, kept = torch.empty_like(x), torch.empty(4, width)
        work = torch.empty(2, -(-rows // BLOCK), width)
        images, parameters = _addresses(x, y), _addresses(weight, bias, bn.running_mean, bn.running_var)
        others = bn.momentum, bn.eps, *_addresses(kept, work), *_threads_and_type(x)
        library().bn_relu_forward(*images, rows, width, channels, *parameters, *others)
        ctx.save_for_backward(x, kept)
        ctx.set_materialize_grads(False)
        return x, y

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, shortcut: Tensor | None, dy: Tensor | None) -> tuple[Tensor | None, ...]:
        if dy is None:
            return shortcut, None, None, None
        x, kept = ctx.saved_tensors
        channels, width = x.shape[1], kept.shape[1]
        rows = x.numel() // width
        dy = dy.contiguous(memory_format=torch.channels_last)
        if shortcut is not None:
            shortcut = shortcut.contiguous(memory_format=torch.channels_last)
        dx, dweight, dbias = torch.empty_like(x), torch.empty(channels), torch.empty(channels)
        work = torch.empty(2, -(-rows // BLOCK) + 1, width)
        images, others = _addresses(x, dy, shortcut, dx), _addresses(kept, dweight, dbias, work)
        library().bn_relu_backward(*images, rows, width, channels, *others, *_threads_and_type(x))
        return dx, dweight, dbias, None


def _addresses(*tensors: Tensor | None) -> list[int | None]:
    return [None if tensor is None else tensor.data_ptr() for tensor in tensors]


def _threads_and_type(x: Tensor) -> tuple[int, int]:
    if x.dtype not in (torch.float32, torch.bfloat16):
        raise TypeError(f"kernels: fused takes float32 and bfloat16, not {x.dtype}")
    return torch.get_num_threads(), int(x.dtype == torch.bfloat16)
