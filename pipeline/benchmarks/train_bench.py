"""`wrn-pipe bench train`: from a public port's training step to ours, against what the machine can do. And `wrn-pipe
bench figure-4`: the paper's timing of thin and wide networks, here."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cache, partial
from itertools import chain, repeat
from pathlib import Path
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pipeline.benchmarks import loader_bench, measuring
from pipeline.benchmarks.measuring import ask, in_rounds, machine, peak_gemm, process, seconds_of
from pipeline.comparison.training_cost import FORWARD_AND_BACKWARD
from pipeline.data.beton import open_split
from pipeline.models.names import Network, multiply_adds, parse
from pipeline.models.resnet import PreActBlock, ResNet, build, convolution
from pipeline.params import Backend, Kernels, Precision
from pipeline.publication.paper import Paper
from pipeline.training.device import computed_in, explain_compile_errors
from pipeline.training.ranks import synchronise
from pipeline.training.train_run import speed_up

DATA = Path("data/beton/cifar10-rgb")
BASELINE = "public port"
MEASURE_S = 1.0
"""Steps are repeated for so long in each round."""


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
    """Allocator and repeatable kernels; needs a process of its own, see measuring.py."""
    kernels: Kernels = "torch"
    our_convolutions: bool = False
    """They come with kernels: fused."""


def default(bf16: bool, backend: Backend = "ffcv", kernels: Kernels = "fused") -> Way:
    """As a stage trains."""
    return Way(True, bf16, backend, True, True, kernels, True)


def ways(device: torch.device, compiled: bool, backend: Backend) -> dict[str, Way]:
    """Label -> way, our loader over `backend`. Each adds one thing to the one before, up to the default; then the other
    kernels: CUDA graphs on a GPU, on a CPU torch.compile where `compiled`."""
    gpu, bf16 = device.type == "cuda", computed_in("bf16", device) == "bf16"
    added: dict[str, dict[str, Any]] = {
        BASELINE: {},
        "+ channels_last": {"channels_last": True},
        **({"+ bf16 autocast": {"bf16": True}} if bf16 else {}),
        f"+ our loader, {backend}": {"loader": backend},
        "+ fused SGD": {"fused_sgd": True},
        "+ repeatable kernels, no TF32" if gpu else "+ allocator": {"prepared": True},
        "+ torch.compile" if gpu else "+ fused BN-ReLU": {"kernels": "fused"},
        **({"+ our weight gradients": {"our_convolutions": True}} if bf16 and not gpu else {}),
    }
    result, way = {}, Way()
    for label, change in added.items():
        result[label] = way = replace(way, **change)
    if gpu:
        result["CUDA graphs instead"] = replace(way, kernels="graphs")
    elif compiled:
        result["torch.compile instead"] = replace(way, kernels="compiled")
    return result


def warm_step(
    network: str, way: Way, batches: Iterator[Any], *, update: bool = True, synchronised: bool = False
) -> Callable[[], None]:
    """A training step on the next of `batches` of images and labels, with or without the update of the weights, that
    has run a few times. By the way's kernels, unless batch_norm is `synchronised`."""
    device, dropout = measuring.device(), 0.3 if network.endswith("-dropout") else 0.0
    model: nn.Module = build(network, 10, conv_init="fan_in", bn_init="ones", dropout=dropout, seed=1).to(device)
    if way.channels_last:
        model = model.to(memory_format=torch.channels_last)
    if synchronised:
        synchronise(model, device)
    else:
        speed_up(way.kernels, model, device)
    for block in model.modules():
        if isinstance(block, PreActBlock | ResNet) and not way.our_convolutions:
            block.convolve = convolution
    optimizer = torch.optim.SGD(
        model.parameters(), lr=0.1, momentum=0.9, nesterov=True, weight_decay=5e-4, fused=way.fused_sgd or None
    )

    def step() -> None:
        images, labels = next(batches)
        layout = torch.channels_last if way.channels_last else torch.contiguous_format
        images = images.to(device, memory_format=layout, non_blocking=True)
        with torch.autocast(device.type, torch.bfloat16, enabled=way.bf16):
            logits: Tensor = model(images)
        optimizer.zero_grad(set_to_none=True)
        F.cross_entropy(logits.float(), labels.to(device, non_blocking=True)).backward()  # type: ignore[no-untyped-call]
        if update:
            optimizer.step()

    for _ in range(3):  # kernels are chosen, memory is taken from the system, and each of a DataLoader's workers runs
        step()
    return step


@explain_compile_errors()
def training_rate(network: str, batch: int, size: int, way: Way, **settings: bool) -> float:
    """Training images a second on random images of `size` x `size`, the same in every step, which lie where it trains.
    `settings` are warm_step's."""
    device = measuring.device()
    images = torch.randn(batch, 3, size, size, device=device).to(memory_format=torch.channels_last)
    batches = repeat((images, torch.randint(10, (batch,), device=device)))
    return batch / seconds_of(warm_step(network, way, batches, **settings), MEASURE_S)


def batch_of(network: Network) -> int:
    """Images of a mini-batch: of WRN-28-10 with 128 a step would take minutes on a CPU."""
    return 32 if network.name == "WRN-28-10" and measuring.device().type == "cpu" else 128


@explain_compile_errors()
def images_per_second(network: Network, way: Way) -> float:
    """Training images a second; the first call for a way builds it and warms it up. Runs in a child process."""
    return batch_of(network) / seconds_of(_loading_step(network, way), MEASURE_S)


@cache
def _loading_step(network: Network, way: Way) -> Callable[[], None]:
    batch = batch_of(network)
    if way.loader == "torchvision":
        epochs = loader_bench.torchvision(DATA, 2, batch)
    else:
        dtype = torch.bfloat16 if way.bf16 else torch.float32
        epochs = loader_bench.ours(way.loader, dtype, DATA, 1, batch)
    whole = (part for part in chain.from_iterable(epochs) if len(part[1]) == batch)
    return warm_step(network.name, way, whole)


def bench(networks: Sequence[str], repeats: int, backend: Backend, *, compiled: bool) -> dict[str, Any]:
    """Measure each way `repeats` times, in rounds, our loader over `backend`.

    gflops: 10^9 FLOP a second, 2 for each multiply-add, forward and backward. of_peak_gemm: those over the machine's
    own matrix product, in bf16 or in fp32, whichever is faster. speed_up: over the baseline, the public port.
    Raises UserError for a bad name, or data that is not converted.
    """
    parsed = [parse(name) for name in networks]
    open_split(DATA, "train")
    settings, measured = ways(measuring.device(), compiled, backend), {}
    for network in parsed:
        with process(prepared=False) as plain, process(prepared=True) as prepared:
            asked = {
                label: partial(ask, prepared if way.prepared else plain, images_per_second, network, way)
                for label, way in settings.items()
            }
            measured[network] = in_rounds(asked, repeats, f"{network.name}: ")
    # Last: a way that was measured after these products, in another process, was seen to come to half its rate.
    with process(prepared=True) as child:
        precisions: list[Precision] = ["fp32", computed_in("bf16", measuring.device())]
        products = {precision: partial(ask, child, peak_gemm, precision) for precision in precisions}
        peaks, here = in_rounds(products, repeats, "matrix products: "), ask(child, machine)
    rows, peak_rate = [], max(peak.median for peak in peaks.values())
    for network, speeds in measured.items():
        gflop = 2 * FORWARD_AND_BACKWARD * multiply_adds(network, network.image_size, network.num_classes) / 1e9
        for label, speed in speeds.items():
            rate, of_baseline = speed.median * gflop, speed.median / speeds[BASELINE].median
            told = {"network": network.name, "batch": batch_of(network), "label": label, "images_per_s": speed}
            rows.append(told | {"gflops": rate, "of_peak_gemm": rate / peak_rate, "speed_up": of_baseline})
    return {"machine": here, "peak_gemm_gflops": peaks, "rows": rows}


REFERENCE = "WRN-40-4"
"""The network that the others' times are divided by: the fastest in the paper."""


def figure_4(paper: Paper, precision: Precision, repeats: int) -> dict[str, Any]:
    """Time forward and backward passes of the networks of the paper's Figure 4 in rounds, with 32 images of 32 x 32.

    The paper's times are of a Titan X, so only ratios carry over: to the time of REFERENCE, theirs or ours (medians).
    """
    printed = {claim.network: claim.value for claim in paper.claims if claim.metric == "batch32_ms"}
    # The fastest but torch.compile: to compile a thousand layers takes too long.
    kernels: Kernels = "fused" if measuring.device().type == "cpu" else "torch"
    way = default(precision == "bf16", kernels=kernels)
    with process(prepared=True) as child:

        def milliseconds(network: str) -> float:
            return 1000 * 32 / ask(child, training_rate, network, 32, 32, way, update=False)

        ours = in_rounds({network: partial(milliseconds, network) for network in printed}, repeats)
        here = ask(child, machine) | {"kernels": kernels}
    timings = [
        {"network": name, "paper_ms": value, "paper_ratio": value / printed[REFERENCE]}
        | {"ms": ours[name], "ratio": ours[name].median / ours[REFERENCE].median}
        for name, value in printed.items()
    ]
    return {"machine": here, "precision": precision, "timings": timings}
