"""BatchNorm2d in training mode and the ReLU behind it as one operation on the CPU, compiled from bn_relu.cpp by g++.

Half the memory traffic of torch's separate operations, which is what most of a narrow network's step waits for. The
gradient formulas are torch's; rounding differs. With the same compiler and processor kind the result is the same to the
bit, for any number of threads.
"""

import ctypes
import math
import os
import platform
import subprocess
from functools import cache
from hashlib import sha256
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from pipeline.errors import UserError
from pipeline.models.preact_resnet import PreActBlock, PreActResNet, batch_norm_relu
from pipeline.publish import sync

SOURCE = Path(__file__).with_suffix(".cpp")
COMPILE = ("g++", "-std=gnu++17", "-O3", "-march=native", "-fno-math-errno", "-fopenmp", "-fPIC", "-shared")
REMEDY = "install g++ (see wrn-pipe doctor), or set kernels: torch in params.yaml, which is slower on a CPU"
PANEL, BLOCK = 64, 256
"""As in bn_relu.cpp."""


def fuse(model: nn.Module) -> str:
    """Let `model`, on the CPU and with channels_last weights, train with this operation; says what it trains with now.

    Names, weights and evaluation stay as they are. Post-activation networks have no place for it and stay with torch's.
    Raises UserError when the operation can not be built here.
    """
    places = [module for module in model.modules() if isinstance(module, PreActBlock | PreActResNet)]
    if not places:
        return "torch"
    library()
    for place in places:
        place.activate = bn_relu
    return f"fused, {compiler()}"


def bn_relu(bn: nn.BatchNorm2d, x: Tensor) -> tuple[Tensor, Tensor]:
    """`x` itself and relu(bn(x)), for x float32 or bfloat16 [B, C, H, W] on the CPU; moves bn's running statistics.

    Take the first output for a shortcut: its gradient is then added where that of `x` is written.
    Raises UserError when pixels do not fill the kernel's rows, ValueError for what BatchNorm2d itself refuses.
    """
    if not bn.training:
        return batch_norm_relu(bn, x)
    channels, pixels = x.shape[1], x.numel() // x.shape[1]
    if pixels == 1:
        raise ValueError(f"more than 1 value per channel is needed when training, got input size {tuple(x.shape)}")
    if x.numel() % math.lcm(channels, PANEL):
        raise UserError(
            f"kernels: fused can not take {pixels} pixels of {channels} channels", "set kernels: torch in params.yaml"
        )
    assert bn.num_batches_tracked is not None
    bn.num_batches_tracked.add_(1)
    both: tuple[Tensor, Tensor] = _BatchNormReLU.apply(
        x.contiguous(memory_format=torch.channels_last),
        bn.weight,
        bn.bias,
        bn.running_mean,
        bn.running_var,
        bn.momentum,
        bn.eps,
    )
    return both


class _BatchNormReLU(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, x: Tensor, weight: Tensor, bias: Tensor, mean: Tensor, variance: Tensor, momentum: float, eps: float
    ) -> tuple[Tensor, Tensor]:
        channels = x.shape[1]
        width = math.lcm(channels, PANEL)
        rows = x.numel() // width
        y, kept = torch.empty_like(x), torch.empty(4, width)
        work = torch.empty(2, -(-rows // BLOCK), width)
        library().bn_relu_forward(
            *map(_pointer, (x, y)),
            *map(ctypes.c_int64, (rows, width, channels)),
            *map(_pointer, (weight, bias, mean, variance)),
            *map(ctypes.c_double, (momentum, eps)),
            *map(_pointer, (kept, work)),
            torch.get_num_threads(),
            _is_bf16(x),
        )
        ctx.save_for_backward(x, kept)
        ctx.set_materialize_grads(False)
        return x, y

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, shortcut: Tensor | None, dy: Tensor | None) -> tuple[Tensor | None, ...]:
        if dy is None:
            return shortcut, None, None, None, None, None, None
        x, kept = ctx.saved_tensors
        channels, width = x.shape[1], kept.shape[1]
        rows = x.numel() // width
        dy = dy.contiguous(memory_format=torch.channels_last)
        if shortcut is not None:
            shortcut = shortcut.contiguous(memory_format=torch.channels_last)
        dx, dweight, dbias = torch.empty_like(x), torch.empty(channels), torch.empty(channels)
        work = torch.empty(2, -(-rows // BLOCK) + 1, width)
        library().bn_relu_backward(
            *map(_pointer, (x, dy, shortcut, dx)),
            *map(ctypes.c_int64, (rows, width, channels)),
            *map(_pointer, (kept, dweight, dbias, work)),
            torch.get_num_threads(),
            _is_bf16(x),
        )
        return dx, dweight, dbias, None, None, None, None


def _pointer(tensor: Tensor | None) -> ctypes.c_void_p:
    return ctypes.c_void_p(None if tensor is None else tensor.data_ptr())


def _is_bf16(x: Tensor) -> int:
    if x.device.type != "cpu" or x.dtype not in (torch.float32, torch.bfloat16):
        raise TypeError(f"kernels: fused takes float32 and bfloat16 on the CPU, not {x.dtype} on {x.device}")
    return int(x.dtype == torch.bfloat16)


@cache
def library() -> ctypes.CDLL:
    """The compiled kernels; built on first use, in a second, beside Python's own compiled files.

    torch is loaded before, so its libgomp serves this library too and there is one pool of threads.
    Raises UserError when they can not be built.
    """
    key = sha256("\0".join([SOURCE.read_text(encoding="utf-8"), *COMPILE, compiler(), _processor()]).encode())
    built = SOURCE.parent / "__pycache__" / f"{SOURCE.stem}-{key.hexdigest()[:16]}.so"
    if not built.is_file():
        part = built.with_suffix(f".{os.getpid()}.part")
        try:
            built.parent.mkdir(exist_ok=True)
            _run(*COMPILE, "-o", str(part), str(SOURCE))
            sync(part)  # of a library that a power loss has cut short the linker says little
            os.replace(part, built)
        except OSError as error:
            raise UserError(f"can not write {built}: {error.strerror}", "make the folder writable") from None
        finally:
            part.unlink(missing_ok=True)
    return ctypes.CDLL(str(built))


@cache
def compiler() -> str:
    """Name and version of the compiler. Raises UserError when there is none."""
    return _run(COMPILE[0], "--version").splitlines()[0]


def _run(*command: str) -> str:
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False, stdin=subprocess.DEVNULL)
    except OSError as error:
        raise UserError(f"{command[0]} is not to be had: {error.strerror}", REMEDY) from None
    if done.returncode:
        words = (done.stderr.strip() or f"exit code {done.returncode}").splitlines()
        raise UserError(f"{command[0]} can not build {SOURCE.name}: {words[0]}", REMEDY)
    return done.stdout


def _processor() -> str:
    """What -march=native looks at: a library built elsewhere may hold instructions that this processor lacks."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.is_file() else [platform.processor()]
    return "\n".join(sorted({line for line in lines if line.startswith(("model name", "flags", "Features"))}))
