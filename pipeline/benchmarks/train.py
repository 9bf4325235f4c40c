"""`wrn-pipe bench train`: from a public port's training step to ours, against what the machine can do."""

import re
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from ruamel.yaml import YAML

from pipeline.benchmarks import measuring
from pipeline.benchmarks.machine import machine
from pipeline.benchmarks.measuring import Spread, matrix_rate, process, spread
from pipeline.benchmarks.steps import OURS, Way, forget, images_per_second, ways
from pipeline.errors import WrnPipeError
from pipeline.execution.estimate import FORWARD_AND_BACKWARD
from pipeline.loading.beton import open_split, read
from pipeline.loading.convert import convert
from pipeline.models.formula import multiply_adds
from pipeline.models.names import parse
from pipeline.params import PARAMS
from pipeline.training.device import Precision

DATA = Path("data/beton/cifar10-rgb")
BATCH = {"WRN-28-10": 32}
"""Images of a mini-batch where 128 would take minutes a step."""
EPOCH_IMAGES = 12_800
"""Training images of the shortened epoch that is timed end to end."""
ROOT = Path(__file__).resolve().parents[2]


@dataclass(frozen=True)
class Row:
    """One way to train one network."""

    label: str
    images_per_s: Spread
    gflops: float
    """10^9 FLOP a second, 2 for each multiply-add, forward and backward."""
    of_bf16_rate: float
    """`gflops` over the machine's own bf16 matrix product."""
    times_port: float


@dataclass(frozen=True)
class NetworkBench:
    network: str
    batch: int
    gflop_per_image: float
    rows: tuple[Row, ...]


@dataclass(frozen=True)
class TrainBench:
    """All that was measured, and on what."""

    machine: dict[str, str]
    """As pipeline/benchmarks/machine.py says it, in the process that measured our way."""
    matrix_gflops: dict[Precision, Spread]
    networks: tuple[NetworkBench, ...]
    epoch: dict[str, float] | None
    """`bare` and `end_to_end` images a second of the first network, where the epoch was timed."""


def bench(
    networks: Sequence[str], repeats: int, *, compiled: bool, epoch: bool, say: Callable[[str], None]
) -> TrainBench:
    """Measure each way `repeats` times, in rounds. Raises UserError for a bad name, or data that is not converted."""
    parsed = [parse(name) for name in networks]
    open_split(DATA, "train")
    device = measuring.device()
    settings = ways(device.type, compiled)
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
                end_to_end = _end_to_end(parsed[0].name, processes, settings[OURS], say)
            for child in processes.values():
                child.submit(forget).result()
        here = processes[True].submit(machine, device).result()
    ceiling = spread([rate / 1e9 for rate in rates["bf16"]])
    result = []
    for network in parsed:
        gflop = 2 * FORWARD_AND_BACKWARD * multiply_adds(network, network.image_size, network.num_classes) / 1e9
        port = spread(measured[network.name]["public port"]).median
        rows = []
        for label, values in measured[network.name].items():
            speed = spread(values)
            gflops = speed.median * gflop
            rows.append(Row(label, speed, gflops, gflops / ceiling.median, speed.median / port))
        result.append(NetworkBench(network.name, BATCH.get(network.name, 128), gflop, tuple(rows)))
    matrix = {precision: spread([value / 1e9 for value in values]) for precision, values in rates.items()}
    return TrainBench(here, matrix, tuple(result), end_to_end if epoch else None)


def _measure(processes: dict[bool, ProcessPoolExecutor], network: str, way: Way) -> float:
    batch = BATCH.get(network, 128)
    return processes[way.prepared].submit(images_per_second, network, batch, way, DATA.resolve()).result()


def _end_to_end(
    network: str, processes: dict[bool, ProcessPoolExecutor], way: Way, say: Callable[[str], None]
) -> dict[str, float]:
    """Images a second of the second epoch of a real train stage, and of the bare steps before and after it."""
    say(f"{network}: an epoch end to end")
    bare = [_measure(processes, network, way)]
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        for name in ("pipeline", "stages", "environment", "dvc.yaml"):
            (root / name).symlink_to(ROOT / name)
        images, labels = read(open_split(DATA, "train").path)
        raw = root / "raw"
        raw.mkdir()
        for split, part in (("train", slice(EPOCH_IMAGES)), ("test", slice(EPOCH_IMAGES, EPOCH_IMAGES + 16))):
            np.save(raw / f"{split}_images.npy", images[part])
            np.save(raw / f"{split}_labels.npy", labels[part])
        convert(raw, root / DATA, ["train", "test"], 10)
        params = YAML(typ="safe", pure=True).load(PARAMS)
        params["protocols"]["bench"] = {
            **params["protocols"]["quick"],
            "epochs": 2,
            "batch_size": BATCH.get(network, 128),
        }
        params["runs"] = {
            "bench": {"dataset": "cifar10", "representation": "rgb", "network": network, "protocol": "bench", "seed": 1}
        }
        params["device"], params["kernels"] = "auto", way.kernels
        YAML().dump(params, root / PARAMS)
        command = [sys.executable, "-m", "stages.train", "bench"]
        done = subprocess.run(command, cwd=root, capture_output=True, text=True, stdin=subprocess.DEVNULL, check=False)
        said = re.search(r"epoch 2/2\b.* ([\d,.]+) images/s", done.stdout + done.stderr)
        if done.returncode or not said:
            raise WrnPipeError(f"the train stage ended with {done.returncode}: {done.stderr[-500:]}", "mend that first")
    bare.append(_measure(processes, network, way))
    return {"bare": sum(bare) / 2, "end_to_end": float(said[1].replace(",", ""))}
