"""Trains runs of the project in the current folder on the stand-in, each second epoch in the mode that finds waiting.

python -m trained KERNELS:RUN...     # of each prints, as a line of JSON, what was asked of the GPU in a step of that
                                     # epoch, and of which kinds of kernels Inductor took the fastest of several

FAULT=item has each step read a number of the GPU's, FAULT=cpu leaves the draws of an epoch on the CPU.
"""

import ctypes
import json
import os
import sys
from pathlib import Path
from typing import Any
from unittest.mock import Mock, patch

import torch
from torch._inductor.runtime.triton_heuristics import CachingAutotuner

from pipeline.data.batches import Inputs
from pipeline.runner.params_file import load
from pipeline.training import loop
from pipeline.training.hooks import Hooks
from pipeline.training.train_run import prepare

from in_place_of_kernels import asked  # isort: skip # installed with pipeline.training

COUNTERS = {"kernels": "libstand-in.so", "graphs": "libstand-in.so", "triton_kernels": "libcuda.so.1"}
tried: set[str] = set()
"""Kinds of kernels of which Inductor measured several, to keep the fastest."""


def counts() -> dict[str, int]:
    return {name: ctypes.c_long.in_dll(ctypes.CDLL(of), f"stand_in_{name}").value for name, of in COUNTERS.items()}


def train(kernels: str, run_id: str) -> dict[str, Any]:
    plan = load().model_copy(update={"kernels": kernels})
    training, record = prepare(plan, run_id, run_id, Path("scratch") / kernels / run_id, Hooks())
    per_step: dict[str, float] = {}
    tried.clear()

    class Watched(loop._Loop):
        _require_finite_loss = Mock()

        def epoch(self) -> None:
            if self.at.epoch == 0:  # whose steps compile, fill caches, allocate and record graphs
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
    told = {"epochs": len(done.history), "unrepeatable": done.unrepeatable, "convolutions": [*asked]}
    told |= {"device": record["device"], "kernels": record["kernels"], "per_step": per_step}
    return told | {"tried": sorted(tried)}


def _try(tuner: CachingAutotuner, *of: Any, **more: Any) -> Any:
    tried.add(tuner.heuristic_type.name)
    return _choose(tuner, *of, **more)


_choose = CachingAutotuner.autotune_to_one_config
CachingAutotuner.autotune_to_one_config = _try  # type: ignore[method-assign]

if __name__ == "__main__":
    for word in sys.argv[1:]:
        print(json.dumps({word: train(*word.split(":"))}), flush=True)
