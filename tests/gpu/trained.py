"""Trains runs of the project in the current folder on the stand-in, each second epoch in the mode that finds waiting.

python trained.py RUN...     # of each prints, as a line of JSON, what was asked of the GPU in a step of that epoch
"""

import ctypes
import json
import sys
from pathlib import Path
from typing import Any
from unittest.mock import patch

import cudnn
import torch

from pipeline.runner.params_file import load
from pipeline.training import loop
from pipeline.training.hooks import Hooks
from pipeline.training.train_run import prepare

COUNTERS = {
    "kernels": "libstand-in.so",
    "graphs": "libstand-in.so",
    "copies_to_host": "libstand-in.so",
    "triton_kernels": "libcuda.so.1",
}


def counts() -> dict[str, int]:
    found = {name: ctypes.c_long.in_dll(ctypes.CDLL(of), f"stand_in_{name}").value for name, of in COUNTERS.items()}
    return found | {"convolutions": len(cudnn.asked)}


def train(run_id: str) -> dict[str, Any]:
    training, record = prepare(load(), run_id, run_id, Path("scratch") / run_id, Hooks())
    per_step: dict[str, float] = {}

    class Watched(loop._Loop):
        def epoch(self) -> None:
            if self.at.epoch == 0:  # whose steps compile, fill caches and allocate
                return super().epoch()
            cudnn.asked.clear()
            before = counts()
            torch.cuda.set_sync_debug_mode("error")
            try:
                super().epoch()
            finally:
                torch.cuda.set_sync_debug_mode("default")
            per_step.update({name: (after - before[name]) / self.steps for name, after in counts().items()})

    with patch.object(loop, "_Loop", Watched), patch.object(loop, "CHECK_LOSS_STEPS", 2):
        done = loop.train(training, lambda *_: None)
    return {
        "epochs": len(done.history),
        "unrepeatable": done.unrepeatable,
        "device": record["device"],
        "kernels": record["kernels"],
        "per_step": per_step,
        "convolutions": [json.loads(each) for each in sorted({json.dumps(each) for each in cudnn.asked})],
    }


if __name__ == "__main__":
    for name in sys.argv[1:]:
        print(json.dumps({name: train(name)}), flush=True)
