"""What stands in place of the kernels of cuDNN and NCCL, and of what is decided by numbers that no kernel computes.

cuDNN notes what it is asked for, and answers with memory of the right shape and layout. Every number is finite, since
kernels that compute nothing leave what was in their memory before. Processes talk by gloo.
"""

from typing import Any

import torch
import torch.distributed as dist

asked: list[dict[str, Any]] = []
"""The different ways in which a convolution forward was asked for."""
library = torch.library.Library("aten", "IMPL")
"""What it puts in place stays there as long as it lives."""


def install() -> None:
    torch.Tensor.isfinite = lambda tensor: torch.ones(tensor.shape, dtype=torch.bool)  # type: ignore[method-assign]
    begin = dist.init_process_group
    dist.init_process_group = lambda backend, **_: begin("gloo")
    library.impl("cudnn_convolution", _forward, "CUDA", allow_override=True)
    library.impl("convolution_backward", _backward, "CUDA", allow_override=True)
    library.impl("cudnn_batch_norm", _norm, "CUDA", allow_override=True)
    library.impl("cudnn_batch_norm_backward", _norm_backward, "CUDA", allow_override=True)


def _channels_last(tensor: torch.Tensor) -> bool:
    return tensor.shape[1] > 1 and tensor.stride(1) == 1


def _layout(*tensors: torch.Tensor) -> torch.memory_format:
    return torch.channels_last if any(map(_channels_last, tensors)) else torch.contiguous_format


def _forward(x: torch.Tensor, weight: torch.Tensor, padding: Any, stride: Any, *rest: Any) -> torch.Tensor:
    how = dict(zip(("benchmark", "deterministic", "tf32"), rest[-3:], strict=True))
    how |= {"x": str(x.dtype), "weight": str(weight.dtype), "channels_last": _channels_last(x) or x.shape[1] == 3}
    if how not in asked:
        asked.append(how)
    size = ((x.shape[2 + k] + 2 * padding[k] - weight.shape[2 + k]) // stride[k] + 1 for k in (0, 1))
    return x.new_empty((len(x), len(weight), *size)).contiguous(memory_format=_layout(x, weight))


def _backward(dy: torch.Tensor, x: torch.Tensor, weight: torch.Tensor, *rest: Any) -> tuple[torch.Tensor | None, ...]:
    layout, wanted = _layout(x, weight), rest[-1]
    dx = torch.empty_like(x, memory_format=layout) if wanted[0] else None
    return dx, torch.empty_like(weight, memory_format=layout) if wanted[1] else None, None


def _norm(x: torch.Tensor, weight: torch.Tensor, *_: Any) -> tuple[torch.Tensor, ...]:
    channels = torch.empty(x.shape[1], device=x.device)
    return torch.empty_like(x), channels, channels.clone(), torch.empty(0, dtype=torch.uint8, device=x.device)


def _norm_backward(x: torch.Tensor, dy: torch.Tensor, weight: torch.Tensor, *_: Any) -> tuple[torch.Tensor, ...]:
    return torch.empty_like(x), torch.empty_like(weight), torch.empty_like(weight)
