"""`wrn-pipe bench train`: from a public port's training step to ours, against what the machine can do."""

import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import numpy as np
from ruamel.yaml import YAML

from pipeline.benchmarks import measuring
from pipeline.benchmarks.child import process
from pipeline.benchmarks.machine import machine
from pipeline.benchmarks.measuring import Spread, ask, matrix_rate, spread
from pipeline.benchmarks.steps import Way, default, forget, images_per_second, kind_of, training_rate, ways
from pipeline.comparison.training_cost import FORWARD_AND_BACKWARD
from pipeline.data.beton import open_split, read
from pipeline.data.convert_arrays import convert
from pipeline.errors import WrnPipeError
from pipeline.models.names import parse
from pipeline.models.param_count import multiply_adds
from pipeline.params import PARAMS, Backend, Kernels, Precision

DATA = Path("data/beton/cifar10-rgb")
BATCH = {"WRN-28-10": 32}
"""Images of a mini-batch where 128 would take minutes a step."""
EPOCH_IMAGES = 12_800
"""Training images of the shortened epochs that are timed end to end: a checkpoint is a larger part of them."""
EPOCHS = 3
"""Of the training that is timed; its first one, in which all is warmed up, is not counted."""
BARE_S = 5.0
"""The bare steps before and after that training are repeated for so long."""
ROOT = Path(__file__).resolve().parents[2]


@dataclass(frozen=True)
class Row:
    """One way to train one network."""

    label: str
    images_per_s: Spread
    gflops: float
    """10^9 FLOP a second, 2 for each multiply-add, forward and backward."""
    of_matrix_rate: float
    """`gflops` over the machine's own matrix product, in bf16 or in fp32, whichever is faster."""
    times_port: float


@dataclass(frozen=True)
class NetworkBench:
    network: str
    batch: int
    gflop_per_image: float
    rows: tuple[Row, ...]


@dataclass(frozen=True)
class Epoch:
    """Images a second of a training's epochs beside those of nothing but its steps."""

    bare: Spread
    """Steps on one mini-batch that lies in memory, before and after the training."""
    end_to_end: Spread
    """From one epoch's end to the next one's: with the loader, the log, MLflow and the checkpoint."""
    lost: float
    """Of the bare rate, by the medians."""


@dataclass(frozen=True)
class TrainBench:
    """All that was measured, and on what."""

    machine: dict[str, str]
    """As pipeline/benchmarks/machine.py says it, in the process that measured our way."""
    matrix_gflops: dict[Precision, Spread]
    networks: tuple[NetworkBench, ...]
    epoch: Epoch | None
    """Of the first network, where it was timed."""


def bench(
    networks: Sequence[str], repeats: int, backend: Backend, *, compiled: bool, epoch: bool, say: Callable[[str], None]
) -> TrainBench:
    """Measure each way `repeats` times, in rounds, our loader over `backend`.

    Raises UserError for a bad name, or data that is not converted.
    """
    parsed = [parse(name) for name in networks]
    open_split(DATA, "train")
    device = measuring.device()
    settings = ways(kind_of(device), compiled, backend)
    measured: dict[str, dict[str, list[float]]] = {network.name: {} for network in parsed}
    rates: dict[Precision, list[float]] = {"fp32": [], "bf16": []}
    with ExitStack() as stack:
        processes = {prepared: stack.enter_context(process(prepared)) for prepared in (False, True)}
        for network in parsed:
            for repeat in range(repeats):
                say(f"{network.name}: round {repeat + 1} of {repeats}")
                for precision, values in rates.items():
                    values.append(processes[True].submit(matrix_rate, precision).result())
                for label, way in settings.items():
                    value = _measure(processes, network.name, way)
                    measured[network.name].setdefault(label, []).append(value)
            if network is parsed[0] and epoch:
                whole = end_to_end(parsed[0].name, processes[True], default(settings), say)
            for child in processes.values():
                child.submit(forget).result()
        here = processes[True].submit(machine, device).result()
    matrix = {precision: spread([value / 1e9 for value in values]) for precision, values in rates.items()}
    ceiling = max(rate.median for rate in matrix.values())
    result = []
    for network in parsed:
        gflop = 2 * FORWARD_AND_BACKWARD * multiply_adds(network, network.image_size, network.num_classes) / 1e9
        port = spread(measured[network.name]["public port"]).median
        rows = []
        for label, values in measured[network.name].items():
            speed = spread(values)
            gflops = speed.median * gflop
            rows.append(Row(label, speed, gflops, gflops / ceiling, speed.median / port))
        result.append(NetworkBench(network.name, BATCH.get(network.name, 128), gflop, tuple(rows)))
    return TrainBench(here, matrix, tuple(result), whole if epoch else None)


def _measure(processes: dict[bool, ProcessPoolExecutor], network: str, way: Way) -> float:
    batch = BATCH.get(network, 128)
    return ask(processes[way.prepared], images_per_second, network, batch, way, DATA.resolve())


def end_to_end(network: str, prepared: ProcessPoolExecutor, way: Way, say: Callable[[str], None]) -> Epoch:
    """Time a real train stage from the end of its first epoch to that of its last, and bare steps before and after."""
    say(f"{network}: {EPOCHS} epochs end to end")
    batch, size = BATCH.get(network, 128), parse(network).image_size

    def bare() -> float:
        return ask(prepared, training_rate, network, batch, size, way.bf16, way.kernels, BARE_S)

    rates = [bare()]
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        checkout(root, network, batch, EPOCHS, way.kernels)
        images, labels = read(open_split(DATA, "train").path)
        raw = root / "raw"
        raw.mkdir()
        for split, part in (("train", slice(EPOCH_IMAGES)), ("test", slice(EPOCH_IMAGES, EPOCH_IMAGES + 16))):
            np.save(raw / f"{split}_images.npy", images[part])
            np.save(raw / f"{split}_labels.npy", labels[part])
        convert(raw, root / DATA, ["train", "test"], 10)
        ends = epoch_ends(root, "bench", EPOCHS)
    rates.append(bare())
    images_an_epoch = EPOCH_IMAGES // batch * batch
    bare_rate, rate = spread(rates), spread([images_an_epoch / (end - start) for start, end in pairwise(ends)])
    return Epoch(bare_rate, rate, 1 - rate.median / bare_rate.median)


def checkout(root: Path, network: str, batch: int, epochs: int, kernels: Kernels) -> None:
    """Make `root` a checkout of this code whose plan is one run, bench: `network` by the protocol quick, changed."""
    for name in ("pipeline", "stages", "environment", "dvc.yaml"):
        (root / name).symlink_to(ROOT / name)
    params = YAML(typ="safe", pure=True).load(PARAMS)
    params["protocols"]["bench"] = {
        **params["protocols"]["quick"],
        **{"epochs": epochs, "batch_size": batch, "test_every": 0},
    }
    params["runs"] = {
        "bench": {"dataset": "cifar10", "representation": "rgb", "network": network, "protocol": "bench", "seed": 1}
    }
    params["device"], params["kernels"] = "auto", kernels
    YAML().dump(params, root / PARAMS)


def epoch_ends(root: Path, run: str, epochs: int) -> list[float]:
    """Train `run` of the checkout `root`; when it told the end of each epoch, in seconds of time.perf_counter.

    That line comes before the epoch is logged to MLflow and saved, so between two of them there is one of everything.
    Raises WrnPipeError where the stage fails.
    """
    ends: list[float] = []
    said: list[str] = []
    command = [sys.executable, "-m", "stages.train", run]
    with subprocess.Popen(
        command, cwd=root, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
    ) as stage:
        assert stage.stderr is not None
        for line in stage.stderr:
            said.append(line)
            if line.startswith(f"{run} epoch {len(ends) + 1}/{epochs}: "):
                ends.append(time.perf_counter())
    if stage.returncode or len(ends) != epochs:
        raise WrnPipeError(f"the train stage ended with {stage.returncode}: {''.join(said)[-500:]}", "mend that first")
    return ends
