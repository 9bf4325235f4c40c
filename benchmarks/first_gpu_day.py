"""The first ten minutes on a real GPU: does what was only simulated hold, and how fast is it?

    python benchmarks/first_gpu_day.py OUT             # again where it was broken off: what ended well is not repeated
    python benchmarks/first_gpu_day.py OUT --small     # a rehearsal on tests/gpu's stand-in: every stage, nothing large

Stages in the order of their worth, each a process of its own with a limit of time, 10 minutes in all. What is found is
appended to OUT/found.jsonl at once; all else is printed. It needs a clone, torch, numpy, pandas, scipy, pillow, psutil,
safetensors, pydantic and ruamel.yaml, but no FFCV, no numba and no network: its images are of random colours.
"""
# ruff: noqa: E402

import json
import os
import subprocess
import sys
import time
import traceback
from importlib.util import find_spec
from pathlib import Path
from tempfile import TemporaryDirectory
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))
if not find_spec("numba"):  # it compiles what makes mini-batches on a CPU, of which there are few below
    sys.modules["numba"] = SimpleNamespace(njit=lambda **_: lambda function: function)  # type: ignore[assignment]

from pipeline.benchmarks.measuring import machine, peak_gemm
from pipeline.benchmarks.train_bench import Way, training_rate
from pipeline.data.conversion import convert
from pipeline.params import Plan, yaml_mapping
from pipeline.training import device as devices
from pipeline.training import loop
from pipeline.training.hooks import Hooks
from pipeline.training.ranks import joined
from pipeline.training.train_run import prepare

OUT, SMALL, STAGE = Path(sys.argv[1]).resolve(), "--small" in sys.argv, [w for w in sys.argv[2:] if w[0] != "-"]
IMAGES, BATCH, SIDE, SLOW = (640, 64, 64, 20) if SMALL else (10_000, 128, 224, 1)
THIN, WIDE, LARGE = ["WRN-10-1"] * 2 + ["WRN-18-1.0"] if SMALL else ["WRN-40-1", "WRN-28-10", "WRN-50-2-bottleneck"]
DROPOUT: dict[str, Any] = {"network": "WRN-10-1-dropout", "dropout": 0.3}


def found(**what: Any) -> None:
    with (OUT / "found.jsonl").open("a") as file:
        file.write(json.dumps({"stage": STAGE[0]} | what) + "\n")


def train(kernels: str, state: str = "", ends_in: int = 0, device: str = "auto", **recipe: Any) -> tuple[Any, Any]:
    """By the product's own loop, from the `state` of that name: what is found, and all weights. It dies in epoch
    `ends_in`, before that is saved."""
    values = yaml_mapping((ROOT / "params.yaml").read_text(), ROOT / "params.yaml", "")
    run = {"dataset": "cifar10", "representation": "rgb", "network": recipe.pop("network", "WRN-10-1"), "seed": 1}
    protocol = {**values["protocols"]["quick"], "batch_size": BATCH, "test_every": 0, "epochs": 2, **recipe}
    values |= {"protocols": {"day": protocol}, "runs": {"day": {**run, "protocol": "day"}}}
    plan = Plan.model_validate(values | {"kernels": kernels, "device": device, "loading": {"backend": "numpy"}})
    folder, ends = Path("scratch", state or str(time.time_ns())), list[tuple[float, float]]()
    training, record = prepare(plan, "day", folder.name, folder, Hooks())

    def on_epoch(_: Any, rate: float) -> None:
        ends.append((time.perf_counter(), rate))
        if len(ends) == ends_in:
            raise InterruptedError

    done, told = loop.train(training, on_epoch), {"kernels": record["kernels"]}
    told |= {"unrepeatable": done.unrepeatable, "loss": [row.train_loss for row in done.history]}
    told |= {"epoch_s": np.diff([end for end, _ in ends]).tolist(), "images_per_s": [rate for _, rate in ends]}
    return told, torch.cat([value.detach().cpu().double().flatten() for value in training.model.state_dict().values()])


def facts(_: str) -> None:
    found(machine=machine(), unusable=devices.unusable_gpu())
    found(peak_gemm_gflops={"bf16": round(peak_gemm("bf16")), "fp32": round(peak_gemm("fp32"))})


def watched(training: loop._Loop, epoch: Any = loop._Loop.epoch) -> None:
    """From the third epoch on, waiting for the GPU is an error: by then all is compiled, recorded and allocated."""
    torch.cuda.set_sync_debug_mode("error" if training.at.epoch > 1 else "default")
    epoch(training)
    torch.cuda.set_sync_debug_mode("default")


def waits_and_alerts(kernels: str) -> None:
    loop._Loop.epoch = watched  # type: ignore[assignment, method-assign]
    torch.cuda.set_sync_debug_mode("default")  # whatever the kernels before have left
    average: dict[str, Any] = {"weight_average": {"decay": 0.9, "every": 2}}
    for recipe in ({}, DROPOUT, {"precision": "fp32"}, average):
        found(recipe=recipe, waits=False, **train(kernels, epochs=4, **recipe)[0])


def against_the_cpu(kernels: str) -> None:
    brief: dict[str, Any] = {"precision": "fp32", "epochs": 1, "holdout": IMAGES - (4 if SMALL else 20) * BATCH}
    (told, here), (expected, there) = train(kernels, **brief), train("torch", device="cpu", **brief)
    found(apart=float((here - there).norm() / there.norm()), loss_on_cpu=expected["loss"], **told)


def repeats(kernels: str) -> None:
    try:
        train(kernels, f"{kernels}-resumed", ends_in=2, **DROPOUT)
    except InterruptedError:
        (told, once), *others = (train(kernels, f"{kernels}-{at}", **DROPOUT) for at in ("once", "again", "resumed"))
        found(twice=torch.equal(once, others[0][1]), resumed=torch.equal(once, others[1][1]), **told)


def thin(kernels: str) -> None:
    (_, once), (told, again) = (train(kernels, network=THIN, epochs=6) for _ in range(2))
    found(network=THIN, twice=torch.equal(once, again), **told)


def wide(kernels: Any) -> None:
    found(network=WIDE, **train(kernels, network=WIDE, epochs=4, test_every=1)[0])
    for bf16, channels_last in ((True, True), (False, True), (False, False), (True, False)):
        way = Way(channels_last, bf16, "numpy", True, True, kernels)
        found(network=WIDE, **vars(way), images_per_s=round(training_rate(WIDE, BATCH, 32, way)))


def nccl_and_memory(kernels: Any) -> None:
    os.environ |= {"RANK": "0", "WORLD_SIZE": "1", "MASTER_ADDR": "localhost", "MASTER_PORT": "29511"}
    with joined("cuda") as ranks:
        torch.distributed.all_reduce(torch.ones(1, device=ranks.device))
        found(backend=torch.distributed.get_backend(), largest=ranks.largest(3))
    devices.prepare(torch.device("cuda", 0))
    rate = training_rate(LARGE, BATCH, SIDE, Way(True, True, "numpy", True, True, kernels))
    found(network=LARGE, images_per_s=round(rate), gigabytes=round(torch.cuda.max_memory_allocated() / 1e9, 1))


ALL = "torch", "compiled", "graphs"
STAGES: dict[Any, tuple[tuple[str, ...], int]] = {
    **{facts: (ALL[:1], 60), waits_and_alerts: (ALL, 150), against_the_cpu: (ALL, 60), repeats: (ALL, 60)},
    **{thin: (ALL, 180), wide: (ALL[:2], 120), nccl_and_memory: (ALL[:1], 60)},
}
"""What they do, by which kernels, and for how many seconds at most."""


def main() -> None:
    OUT.mkdir(parents=True, exist_ok=True)
    (OUT / "found.jsonl").touch()
    rows = map(json.loads, (OUT / "found.jsonl").read_text().splitlines())
    ended, until = {row["stage"] for row in rows if row.get("exit_code") == 0}, time.monotonic() + 590 * SLOW
    with TemporaryDirectory() as work:
        draws = np.random.default_rng(0)
        for split in ("train", "test"):
            np.save(f"{work}/{split}_images.npy", draws.integers(0, 256, (IMAGES, 32, 32, 3), np.uint8))
            np.save(f"{work}/{split}_labels.npy", np.arange(IMAGES) % 10)
        convert(Path(work), Path(work, "data", "beton", "cifar10-rgb"), 10)
        for name, limit in [(stage.__name__, limit) for stage, (_, limit) in STAGES.items()]:
            started = time.monotonic()
            if name not in ended and (left := until - started) > 10:
                command = ["timeout", str(min(limit * SLOW, left)), sys.executable, __file__, str(OUT), name]
                code = subprocess.run([*command, *sys.argv[2:]], cwd=work, check=False).returncode
                STAGE[:] = [name]
                found(exit_code=code, seconds=round(time.monotonic() - started, 1))


if __name__ == "__main__":
    failed = 0
    for stage, (by, _) in STAGES.items():
        for kernels in by if [stage.__name__] == STAGE else ():
            try:
                stage(kernels)
            except Exception:  # noqa: BLE001 - is a finding, and other kernels may do better
                failed += 1
                found(by=kernels, error=traceback.format_exc()[-2000:])
    if not STAGE:
        main()
    sys.exit(failed)
