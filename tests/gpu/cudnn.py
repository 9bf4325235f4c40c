"""cuDNN of the stand-in: what it is asked for is noted, and answered by memory of the right shape and layout.

Importing it also makes every number finite, since kernels that compute nothing leave what was in their memory before.
"""

import warnings
from typing import Any

import torch

from pipeline.training.loop import _Loop

asked: list[dict[str, Any]] = []
"""Of each convolution forward: dtype, whether input and weight are channels_last, deterministic, benchmark, TF32."""
_library = torch.library.Library("aten", "IMPL")


def _layout(*tensors: torch.Tensor) -> torch.memory_format:
    return torch.channels_last if any(map(_channels_last, tensors)) else torch.contiguous_format


def _channels_last(tensor: torch.Tensor) -> bool:
    return tensor.shape[1] > 1 and tensor.stride(1) == 1


def _forward(
    x: torch.Tensor, weight: torch.Tensor, padding: Any, stride: Any, dilation: Any, groups: int, *how: bool
) -> torch.Tensor:
    benchmark, deterministic, tf32 = how
    own = {"x": str(x.dtype), "weight": str(weight.dtype), "channels_last": _channels_last(x) or x.shape[1] == 3}
    asked.append(own | {"benchmark": benchmark, "deterministic": deterministic, "tf32": tf32})
    height, width = (
        (size + 2 * padding[k] - weight.shape[2 + k]) // stride[k] + 1 for k, size in enumerate(x.shape[2:])
    )
    return x.new_empty((len(x), len(weight), height, width)).contiguous(memory_format=_layout(x, weight))


def _backward(dy: torch.Tensor, x: torch.Tensor, weight: torch.Tensor, *rest: Any) -> tuple[torch.Tensor | None, ...]:
    layout, wanted = _layout(x, weight), rest[-1]
    dx = torch.empty_like(x, memory_format=layout) if wanted[0] else None
    return dx, torch.empty_like(weight, memory_format=layout) if wanted[1] else None, None


def _norm(x: torch.Tensor, weight: torch.Tensor, *_: Any) -> tuple[torch.Tensor, ...]:
    channels = torch.empty(x.shape[1], device=x.device)
    return torch.empty_like(x), channels, channels.clone(), torch.empty(0, dtype=torch.uint8, device=x.device)


def _norm_backward(x: torch.Tensor, dy: torch.Tensor, weight: torch.Tensor, *_: Any) -> tuple[torch.Tensor, ...]:
    return torch.empty_like(x), torch.empty_like(weight), torch.empty_like(weight)


with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    for _name, _function in {
        "cudnn_convolution": _forward,
        "convolution_backward": _backward,
        "cudnn_batch_norm": _norm,
        "cudnn_batch_norm_backward": _norm_backward,
    }.items():
        _library.impl(_name, _function, "CUDA", allow_override=True)

torch.Tensor.isfinite = lambda tensor: torch.ones(tensor.shape, dtype=torch.bool)  # type: ignore[method-assign]
_Loop._require_finite_loss = lambda *_: None  # type: ignore[method-assign]
