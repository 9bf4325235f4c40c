"""`wrn-pipe bench train`: from a public port's training step to ours, against what the machine can do. And `wrn-pipe
bench figure-4`: the paper's timing of thin and wide networks, here."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from functools import cache
from itertools import count, repeat
from pathlib import Path
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pipeline.benchmarks import loader_bench, measuring
from pipeline.benchmarks.measuring import Spread, ask, machine, peak_gemm, process, seconds_of, spread
from pipeline.comparison.training_cost import FORWARD_AND_BACKWARD
from pipeline.data.beton import open_split
from pipeline.kernels.apply import speed_up
from pipeline.models.build import build
from pipeline.models.names import Network, parse
from pipeline.models.param_count import multiply_adds
from pipeline.models.resnet import PreActBlock, ResNet, convolution
from pipeline.models.sync_batch_norm import synchronise
from pipeline.params import Backend, Kernels, Precision
from pipeline.publication.paper import Paper
from pipeline.training.openmp_threads import on_own_core

DATA = Path("data/beton/cifar10-rgb")
BASELINE = "public port"
MEASURE_S = 1.0
"""Steps are repeated for so long in each round."""
Batches = Iterator[tuple[Tensor, Tensor]]


@dataclass(frozen=True)
class Way:
    """One way to train: what stands between a public port and ours."""

    channels_last: bool = False
    bf16: bool = False
    loader: Literal["torchvision"] | Backend = "torchvision"
    """torchvision's, or ours over ffcv or numpy."""
    fused_sgd: bool = False
    """Else what torch takes by itself."""
    prepared: bool = False
    """Allocator, repeatable kernels, threads on their own cores; needs a process of its own, see measuring.py."""
    kernels: Kernels = "torch"
    our_convolutions: bool = False
    """They come with kernels: fused."""


def default(bf16: bool, backend: Backend = "ffcv", kernels: Kernels = "fused") -> Way:
    """As a stage trains."""
    return Way(True, bf16, backend, True, True, kernels, True)


def ways(device: torch.device, compiled: bool, backend: Backend) -> dict[str, Way]:
    """Label -> way, our loader over `backend`. Each adds one thing to the one before, up to the default; then, where
    `compiled`, torch.compile instead of our kernels on a CPU."""
    gpu, bf16 = device.type == "cuda", measuring.has_bf16(device)
    added: list[tuple[str, dict[str, Any]]] = [
        ("+ channels_last", {"channels_last": True}),
        *([("+ bf16 autocast", {"bf16": True})] if bf16 else []),
        (f"+ our loader, {backend}", {"loader": backend}),
        ("+ fused SGD", {"fused_sgd": True}),
        ("+ repeatable kernels, no TF32" if gpu else "+ allocator, own cores", {"prepared": True}),
        ("+ torch.compile" if gpu else "+ fused BN-ReLU", {"kernels": "fused"}),
        *([("+ our weight gradients", {"our_convolutions": True})] if bf16 and not gpu else []),
    ]
    way = Way()
    result = {BASELINE: way}
    for label, change in added:
        result[label] = way = replace(way, **change)
    if compiled and not gpu:
        result["torch.compile instead"] = replace(way, kernels="compiled")
    return result


def warm_step(
    network: str, way: Way, batches: Batches, *, update: bool = True, synchronised: bool = False
) -> Callable[[], None]:
    """A training step on the next of `batches`, with or without the update of the weights, that has run a few times.

    By the way's kernels, unless batch_norm is `synchronised`.
    """
    device = measuring.device()
    dropout = 0.3 if network.endswith("-dropout") else 0.0
    model: nn.Module = build(network, 10, conv_init="fan_in", bn_init="ones", dropout=dropout, seed=1).to(device)
    if way.channels_last:
        model = model.to(memory_format=torch.channels_last)
    if synchronised:
        synchronise(model, device)
    else:
        speed_up(way.kernels, model, device, "bf16" if way.bf16 else "fp32")
    for block in model.modules():
        if isinstance(block, PreActBlock | ResNet) and not way.our_convolutions:
            block.convolve = convolution
    optimizer = torch.optim.SGD(
        model.parameters(), lr=0.1, momentum=0.9, nesterov=True, weight_decay=5e-4, fused=way.fused_sgd or None
    )

    def compute(images: Tensor, labels: Tensor) -> None:
        layout = torch.channels_last if way.channels_last else torch.contiguous_format
        images = images.to(device, memory_format=layout, non_blocking=True)
        with torch.autocast(device.type, torch.bfloat16, enabled=way.bf16):
            logits: Tensor = model(images)
        optimizer.zero_grad(set_to_none=True)
        F.cross_entropy(logits.float(), labels.to(device, non_blocking=True)).backward()  # type: ignore[no-untyped-call]
        if update:
            optimizer.step()

    def step() -> None:
        images, labels = next(batches)
        with on_own_core():
            compute(images, labels)

    # Kernels are chosen, memory is taken from the system, and each of a DataLoader's workers, whose start takes seconds
    # of all cores, has made a batch. What compiles may run on any core.
    for _ in range(3):
        compute(*next(batches))
    return step


def random_batches(batch: int, size: int) -> Batches:
    """One mini-batch of random images, again and again, where it is trained on."""
    device = measuring.device()
    images = torch.randn(batch, 3, size, size, device=device).to(memory_format=torch.channels_last)
    return repeat((images, torch.randint(10, (batch,), device=device)))


def training_rate(network: str, batch: int, size: int, way: Way, **settings: bool) -> float:
    """Training images a second on random images of `size` x `size`; keeps nothing. `settings` are warm_step's."""
    return batch / seconds_of(warm_step(network, way, random_batches(batch, size), **settings), MEASURE_S)


def batch_of(network: Network) -> int:
    """Images of a mini-batch: of WRN-28-10 with 128 a step would take minutes."""
    return 32 if network.name == "WRN-28-10" else 128


def images_per_second(network: str, batch: int, way: Way, data: Path) -> float:
    """Training images a second; the first call for a way builds it and warms it up. Runs in a child process."""
    return batch / seconds_of(_loading_step(network, batch, way, data), MEASURE_S)


@cache
def _loading_step(network: str, batch: int, way: Way, data: Path) -> Callable[[], None]:
    if way.loader == "torchvision":
        epoch = loader_bench.torchvision(data, 2, batch)
    else:
        dtype = torch.bfloat16 if way.bf16 else torch.float32
        epoch = loader_bench.ours(way.loader, dtype, data, 1, batch, measuring.device())
    whole = (part for number in count() for part in epoch(number) if len(part[1]) == batch)
    return warm_step(network, way, whole)


@dataclass(frozen=True)
class Row:
    """One way to train one network."""

    network: str
    batch: int
    label: str
    images_per_s: Spread
    gflops: float
    """10^9 FLOP a second, 2 for each multiply-add, forward and backward."""
    of_peak_gemm: float
    """`gflops` over the machine's own matrix product, in bf16 or in fp32, whichever is faster."""
    speed_up: float
    """Over the baseline, the public port."""


@dataclass(frozen=True)
class TrainBench:
    """All that was measured, and on what."""

    machine: dict[str, str]
    """As `measuring.machine` says it, in the process that measured our way."""
    peak_gemm_gflops: dict[Precision, Spread]
    rows: tuple[Row, ...]


def bench(
    networks: Sequence[str], repeats: int, backend: Backend, *, compiled: bool, say: Callable[[str], None]
) -> TrainBench:
    """Measure each way `repeats` times, in rounds, our loader over `backend`.

    Raises UserError for a bad name, or data that is not converted.
    """
    parsed = [parse(name) for name in networks]
    open_split(DATA, "train")
    device = measuring.device()
    settings = ways(device, compiled, backend)
    rates: dict[Precision, list[float]] = {"fp32": [], "bf16": []} if measuring.has_bf16(device) else {"fp32": []}
    measured: dict[tuple[Network, str], list[float]] = {(of, label): [] for of in parsed for label in settings}
    with ExitStack() as stack:
        processes = {prepared: stack.enter_context(process(prepared)) for prepared in (False, True)}
        for network in parsed:
            for number in range(repeats):
                say(f"{network.name}: round {number + 1} of {repeats}")
                for label, way in settings.items():
                    asked = (network.name, batch_of(network), way, DATA.resolve())
                    measured[network, label].append(ask(processes[way.prepared], images_per_second, *asked))
            for child in processes.values():
                ask(child, _loading_step.cache_clear)
        # Last: a way that was measured after these products, in another process, was seen to come to half its rate.
        for precision, values in rates.items():
            values += [ask(processes[True], peak_gemm, precision) / 1e9 for _ in range(repeats)]
        here = ask(processes[True], machine)
    peaks = {precision: spread(values) for precision, values in rates.items()}
    ceiling = max(peak.median for peak in peaks.values())
    rows = []
    for (network, label), values in measured.items():
        gflop = 2 * FORWARD_AND_BACKWARD * multiply_adds(network, network.image_size, network.num_classes) / 1e9
        speed, baseline = spread(values), spread(measured[network, BASELINE])
        gflops = speed.median * gflop
        speed_up = speed.median / baseline.median
        rows.append(Row(network.name, batch_of(network), label, speed, gflops, gflops / ceiling, speed_up))
    return TrainBench(here, peaks, tuple(rows))


FIGURE_4_BATCH = 32
REFERENCE = "WRN-40-4"
"""The network that the others' times are divided by: the fastest in the paper."""


@dataclass(frozen=True)
class Timing:
    """Of a forward and backward pass. A ratio is to the time of REFERENCE, of the paper or of ours (medians)."""

    network: str
    paper_ms: float
    paper_ratio: float
    ms: Spread
    ratio: float


@dataclass(frozen=True)
class Figure4:
    machine: dict[str, str]
    """As `measuring.machine` says it, and the kernels."""
    precision: Precision
    timings: tuple[Timing, ...]


def figure_4(paper: Paper, precision: Precision, repeats: int, say: Callable[[str], None]) -> Figure4:
    """Time the networks of the paper's Figure 4 in rounds. The paper's are of a Titan X, so only ratios carry over."""
    printed = {claim.network: claim.value for claim in paper.claims if claim.metric == "batch32_ms"}
    ms: dict[str, list[float]] = {network: [] for network in printed}
    # The fastest but torch.compile: to compile a thousand layers takes too long.
    kernels: Kernels = "fused" if measuring.device().type == "cpu" else "torch"
    way = default(precision == "bf16", kernels=kernels)
    with process(prepared=True) as child:
        for number in range(repeats):
            say(f"round {number + 1} of {repeats}")
            for network, values in ms.items():
                rate = ask(child, training_rate, network, FIGURE_4_BATCH, 32, way, update=False)
                values.append(1000 * FIGURE_4_BATCH / rate)
        here = ask(child, machine) | {"kernels": kernels}
    ours = {network: spread(values) for network, values in ms.items()}
    timings = tuple(
        Timing(name, value, value / printed[REFERENCE], ours[name], ours[name].median / ours[REFERENCE].median)
        for name, value in printed.items()
    )
    return Figure4(here, precision, timings)
