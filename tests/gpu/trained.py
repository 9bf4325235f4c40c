"""Trains runs of the project in the current folder on the stand-in, each second epoch in the mode that finds waiting.

python trained.py RUN...     # of each prints, as a line of JSON, what was asked of the GPU in a step of that epoch

FAULT=item has each step read a number of the GPU's, FAULT=cpu leaves the draws of an epoch on the CPU.
cuDNN notes what it is asked for, and answers with memory of the right shape and layout. Every number is finite, since
kernels that compute nothing leave what was in their memory before.
"""

import ctypes
import json
import os
import sys
from pathlib import Path
from typing import Any
from unittest.mock import Mock, patch

import torch

from pipeline.data.batches import Inputs
from pipeline.runner.params_file import load
from pipeline.training import loop
from pipeline.training.hooks import Hooks
from pipeline.training.train_run import prepare

COUNTERS = {"kernels": "libstand-in.so", "triton_kernels": "libcuda.so.1"}
asked: list[dict[str, Any]] = []
"""The different ways in which a convolution forward was asked for."""


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


def counts() -> dict[str, int]:
    return {name: ctypes.c_long.in_dll(ctypes.CDLL(of), f"stand_in_{name}").value for name, of in COUNTERS.items()}


def train(run_id: str) -> dict[str, Any]:
    training, record = prepare(load(), run_id, run_id, Path("scratch") / run_id, Hooks())
    per_step: dict[str, float] = {}

    class Watched(loop._Loop):
        _require_finite_loss = Mock()

        def epoch(self) -> None:
            if self.at.epoch == 0:  # whose steps compile, fill caches and allocate
                return super().epoch()
            asked.clear()
            before = counts()
            torch.cuda.set_sync_debug_mode("error")
            super().epoch()
            torch.cuda.set_sync_debug_mode("default")
            per_step.update({name: (after - before[name]) / self.steps for name, after in counts().items()})

        def step(self, *of: Any) -> Any:
            loss, wrong = super().step(*of)
            return loss, wrong if os.environ.get("FAULT") != "item" else torch.full_like(wrong, wrong.item())

    if os.environ.get("FAULT") == "cpu":
        Inputs._sent = lambda self, array: torch.from_numpy(array)  # type: ignore[method-assign]
    with patch.object(loop, "_Loop", Watched), patch.object(loop, "CHECK_LOSS_STEPS", 2):
        done = loop.train(training, lambda *_: None)
    told = {"epochs": len(done.history), "unrepeatable": done.unrepeatable, "convolutions": asked}
    return told | {"device": record["device"], "kernels": record["kernels"], "per_step": per_step}


if __name__ == "__main__":
    torch.Tensor.isfinite = lambda tensor: torch.ones(tensor.shape, dtype=torch.bool)  # type: ignore[method-assign]
    library = torch.library.Library("aten", "IMPL")
    library.impl("cudnn_convolution", _forward, "CUDA", allow_override=True)
    library.impl("convolution_backward", _backward, "CUDA", allow_override=True)
    library.impl("cudnn_batch_norm", _norm, "CUDA", allow_override=True)
    library.impl("cudnn_batch_norm_backward", _norm_backward, "CUDA", allow_override=True)
    for name in sys.argv[1:]:
        print(json.dumps({name: train(name)}), flush=True)
