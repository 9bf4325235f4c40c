"""What a training on a CPU has of our own: BN-ReLU as one operation, and the gradient of convolutions' weights.

The one function that others call is `speed_up`. A training without this folder is slower, and all else works.
"""

import ctypes
import logging
import math
import threading
from functools import cache
from importlib.metadata import version
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from pipeline.errors import UserError
from pipeline.kernels.build_kernels import COMPILE, built_with, compiler, instruction_set, library
from pipeline.models.resnet import PreActBlock, ResNet, batch_norm_relu
from pipeline.params import Kernels

_PANEL, _BLOCK = 64, 256
"""As in bn_relu.cpp."""
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


def speed_up(kernels: Kernels, model: nn.Module, device: torch.device) -> str:
    """Let `model`, on `device` with channels_last weights, train with `kernels`; says with what, for run.json.

    Names, weights and evaluation stay as they are. Raises UserError when a compiler or what graphs are for is missing.
    """
    if kernels == "torch":
        return "torch"
    if kernels == "graphs" and device.type != "cuda":
        raise UserError(f"kernels: graphs needs a CUDA GPU, and this is a {device.type}", "set kernels: fused")
    if kernels in ("compiled", "graphs") or device.type != "cpu":
        return _compile(model, device, kernels == "graphs")
    modules = list(model.modules())
    if not any(isinstance(module, PreActBlock) for module in modules):  # a post-activation network
        return "torch"
    with_what = built_with()
    for module in modules:
        if isinstance(module, PreActBlock | ResNet):
            module.activate, module.convolve = bn_relu, convolve
    return f"fused, {with_what}"


def _compile(model: nn.Module, device: torch.device, graphs: bool) -> str:
    """At the first step of each shape of mini-batch, in a minute or so; torch keeps the result in its own cache.

    Another network of this process that is in use compiles again at its next step, unless it is of the same shape.
    """
    from torch import _dynamo
    from torch._inductor import config
    from torch.utils._triton import has_triton

    config.cpp.cxx = (None, COMPILE[0])  # whatever CXX says: the one that is recorded
    with_what = compiler()  # Triton needs it as well, for what calls its kernels
    if device.type == "cuda":
        if not has_triton():
            raise UserError(f"torch.compile has no Triton for {device}", "set kernels: torch in params.yaml")
        with_what = f"triton {version('triton')}"
        if isinstance(model, ResNet):
            model.__class__ = _CountingResNet
            for module in model.modules():
                if type(module) is nn.BatchNorm2d:
                    module.__class__ = _UncountedBatchNorm2d
    logging.getLogger("torch.utils.cpp_extension").setLevel(logging.ERROR)  # would warn that a CPU has no CUDA
    if graphs:  # else a later reset imports it, and fails: what it goes through has grown meanwhile
        from torch._inductor import cudagraph_trees  # noqa: F401
    # All compiled networks share one piece of torch's own code, and with it torch keeps 8 results, those for networks
    # that are gone among them: a ninth network in a process would be an error.
    _dynamo.reset()
    # Each shape is compiled for itself, so that bits do not depend on which one this process met first; and what can
    # not be compiled whole, or launched as a graph, is an error, not a part that quietly runs without.
    config.triton.cudagraph_or_error = graphs
    model.compile(dynamic=False, fullgraph=True, options={"triton.cudagraphs": True} if graphs else None)
    return f"{'graphs' if graphs else 'compiled'}, torch {version('torch')} inductor, {with_what}"


class _UncountedBatchNorm2d(nn.BatchNorm2d):
    def forward(self, x: Tensor) -> Tensor:
        assert self.momentum is not None
        statistics, affine = (self.running_mean, self.running_var), (self.weight, self.bias)
        return F.batch_norm(x, *statistics, *affine, self.training, self.momentum, self.eps)


class _CountingResNet(ResNet):
    """For a GPU, where each layer's counting of its steps would be a launch: it counts for all of them at once."""

    def forward(self, x: Tensor) -> Tensor:
        if self.training:
            layers = [layer for layer in self.modules() if isinstance(layer, _UncountedBatchNorm2d)]
            counts = [layer.num_batches_tracked for layer in layers if layer.num_batches_tracked is not None]
            torch._foreach_add_(counts, 1)
        return super().forward(x)


def bn_relu(bn: nn.BatchNorm2d, x: Tensor) -> tuple[Tensor, Tensor]:
    """`x` itself and relu(bn(x)), for x float32 or bfloat16 [B, C, H, W] on the CPU; moves bn's running statistics.

    Half the memory traffic of torch's separate operations, which is what most of a narrow network's step waits for. The
    gradient formulas are torch's; rounding differs. With the same compiler and kind of processor the result is the same
    to the bit, for any number of threads. Take the first output for a shortcut: its gradient is then added where that
    of `x` is written. Raises UserError when pixels do not fill the kernel's rows.
    """
    if not bn.training:
        return batch_norm_relu(bn, x)
    channels, pixels = x.shape[1], x.numel() // x.shape[1]
    if x.numel() % math.lcm(channels, _PANEL):
        raise UserError(
            f"kernels: fused cannot take {pixels} pixels of {channels} channels", "set kernels: torch in params.yaml"
        )
    assert bn.num_batches_tracked is not None
    bn.num_batches_tracked.add_(1)
    x = x.contiguous(memory_format=torch.channels_last)
    both: tuple[Tensor, Tensor] = _BatchNormReLU.apply(x, bn.weight, bn.bias, bn)
    return both


class _BatchNormReLU(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor, bn: Any) -> tuple[Tensor, Tensor]:
        channels = x.shape[1]
        width = math.lcm(channels, _PANEL)
        rows = x.numel() // width
        y, kept = torch.empty_like(x), torch.empty(4, width)
        work = torch.empty(2, -(-rows // _BLOCK), width)
        images, parameters = _addresses(x, y), _addresses(weight, bias, bn.running_mean, bn.running_var)
        others = bn.momentum, bn.eps, *_addresses(kept, work), *_threads_and_type(x)
        library().bn_relu_forward(*images, rows, width, channels, *parameters, *others)
        ctx.save_for_backward(x, kept)
        ctx.set_materialize_grads(False)
        return x, y

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, shortcut: Tensor | None, dy: Tensor) -> tuple[Tensor | None, ...]:
        x, kept = ctx.saved_tensors
        channels, width = x.shape[1], kept.shape[1]
        rows = x.numel() // width
        dy = dy.contiguous(memory_format=torch.channels_last)
        if shortcut is not None:
            shortcut = shortcut.contiguous(memory_format=torch.channels_last)
        dx, dweight, dbias = torch.empty_like(x), torch.empty(channels), torch.empty(channels)
        work = torch.empty(2, -(-rows // _BLOCK) + 1, width)
        images, others = _addresses(x, dy, shortcut, dx), _addresses(kept, dweight, dbias, work)
        library().bn_relu_backward(*images, rows, width, channels, *others, *_threads_and_type(x))
        return dx, dweight, dbias, None


def _addresses(*tensors: Tensor | None) -> list[int | None]:
    return [None if tensor is None else tensor.data_ptr() for tensor in tensors]


def _threads_and_type(x: Tensor) -> tuple[int, int]:
    if x.dtype not in (torch.float32, torch.bfloat16):
        raise TypeError(f"kernels: fused takes float32 and bfloat16, not {x.dtype}")
    return torch.get_num_threads(), int(x.dtype == torch.bfloat16)


def convolve(conv: nn.Conv2d, x: Tensor) -> Tensor:
    """conv(x) for images [B, C, H, W]: what convolution.cpp is not made for, torch does.

    In bfloat16 torch's own gradient of the weights takes up to twice as long and rounds to bfloat16; ours is float32.
    And torch's threads wait for each other within it without ever sleeping, hundreds of times in a step: beside a busy
    neighbour, where one of them does not run at the moment, each time costs milliseconds.
    """
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
