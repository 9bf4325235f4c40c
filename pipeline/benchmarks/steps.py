"""A training step in the ways that `wrn-pipe bench train` compares."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import cache
from itertools import count
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

from pipeline.benchmarks import measuring
from pipeline.benchmarks.measuring import seconds_of
from pipeline.data.batches import Inputs
from pipeline.data.beton import open_split, read
from pipeline.data.digest import Stored
from pipeline.data.loader import Loader
from pipeline.data.preprocessing import Preprocessing
from pipeline.data.sampler import sample_order
from pipeline.kernels.apply import use, waits_in_openmp
from pipeline.models.build import build
from pipeline.models.preact_resnet import PreActBlock, PreActResNet, convolution
from pipeline.models.sync_batch_norm import synchronise
from pipeline.params import Backend, Kernels
from pipeline.runner.waiting import Yielding, on_own_core
from pipeline.training import device as devices

MEASURE_S = 1.0
"""Steps are repeated for so long in each round."""


@dataclass(frozen=True)
class Way:
    """One way to train: what stands between a public port and ours."""

    channels_last: bool = False
    bf16: bool = False
    loader: Literal["torchvision"] | Backend = "torchvision"
    """torchvision's, or ours over ffcv or numpy."""
    sgd: Literal["torch's choice", "foreach", "fused"] = "torch's choice"
    """torch itself takes foreach on a GPU, and one parameter after another on a CPU."""
    prepared: bool = False
    """Allocator, repeatable kernels, threads on their own cores; needs a process of its own, see child.py."""
    kernels: Kernels = "torch"
    convolutions: Literal["torch", "ours"] = "torch"
    """Whose weight gradients; ours come with kernels: fused."""


Kind = Literal["cuda", "cpu", "cpu without bf16"]
"""Of device. Without: torch's bfloat16 takes twenty times as long as its float32, and a training computes in fp32."""
_PREPARED = {"cpu": "+ allocator, own cores", "cuda": "+ repeatable kernels, no TF32"}
"""What child.py does on each that a step's time can depend on."""


def kind_of(device: torch.device) -> Kind:
    if device.type == "cuda":
        return "cuda"
    return "cpu" if devices.computed_in("bf16", device) == "bf16" else "cpu without bf16"


def ways(kind: Kind, compiled: bool, backend: Backend) -> dict[str, Way]:
    """Label -> way, our loader over `backend`. Each adds one thing to the one before, up to the one by `default`.

    Those that end in "instead" change one of that. On a GPU `compiled` adds nothing: the default is.
    """
    way = Way()
    result = {"public port": way}
    bf16 = ("+ bf16 autocast", {"bf16": True})
    added: list[tuple[str, dict[str, Any]]] = [
        ("+ channels_last", {"channels_last": True}),
        *([] if kind == "cpu without bf16" else [bf16]),
        (f"+ our loader, {backend}", {"loader": backend}),
        ("+ fused SGD", {"sgd": "fused"}),
        (_PREPARED["cuda" if kind == "cuda" else "cpu"], {"prepared": True}),
    ]
    if kind == "cuda":
        added += [("+ torch.compile", {"kernels": "fused"})]
    else:
        added += [("+ fused BN-ReLU", {"kernels": "fused"})]
    if kind == "cpu":
        added += [("+ our weight gradients", {"convolutions": "ours"})]
    for label, change in added:
        way = replace(way, **change)
        result[label] = way
    result["foreach SGD instead"] = replace(way, sgd="foreach")
    if kind != "cuda":
        result["SGD one by one instead"] = replace(way, sgd="torch's choice")
        if compiled:
            result["torch.compile instead"] = replace(way, kernels="compiled")
    return result


def default(settings: Mapping[str, Way]) -> Way:
    """Of those by `ways`, the one that trains by default."""
    return [way for label, way in settings.items() if not label.endswith("instead")][-1]


def images_per_second(network: str, batch: int, way: Way, data: Path) -> float:
    """Training images a second; the first call for a way builds it and warms it up. Runs in a child process."""
    step = _step(network, batch, way, data)
    return batch / seconds_of(step, MEASURE_S)


def forget() -> None:
    """Free what `images_per_second` keeps between its calls."""
    _step.cache_clear()


@cache
def _step(network: str, batch: int, way: Way, data: Path) -> Callable[[], None]:
    device = measuring.device()
    model = build(network, 10, conv_init="fan_in", bn_init="ones", seed=1).to(device)
    if way.channels_last:
        model = model.to(memory_format=torch.channels_last)
    use(way.kernels, model, device)
    if way.convolutions == "torch":
        for block in model.modules():
            if isinstance(block, PreActBlock | PreActResNet):
                block.convolve = convolution
    optimizer = torch.optim.SGD(
        model.parameters(),
        lr=0.1,
        momentum=0.9,
        nesterov=True,
        weight_decay=5e-4,
        foreach=True if way.sgd == "foreach" else None,
        fused=True if way.sgd == "fused" else None,
    )
    if way.loader == "torchvision":
        batches = _torchvision(data, batch, device)
    else:
        batches = _ours(data, batch, way.loader, torch.bfloat16 if way.bf16 else torch.float32, device)

    def compute(images: Tensor, labels: Tensor) -> None:
        if not way.channels_last:
            images = images.contiguous()
        with torch.autocast(device.type, torch.bfloat16, enabled=way.bf16):
            logits: Tensor = model(images)
        loss = F.cross_entropy(logits.float(), labels)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()

    def step() -> None:
        images, labels = next(batches)
        with on_own_core():
            compute(images, labels)

    # Kernels are chosen, memory is taken from the system; and what compiles them may run on any core.
    for _ in range(3 if way.prepared else 1):
        compute(*next(batches))
    measuring.wait(device)
    return step


def _ours(
    data: Path, batch: int, backend: Backend, dtype: torch.dtype, device: torch.device
) -> Iterator[tuple[Tensor, Tensor]]:
    """As the training loop takes them, epoch after epoch."""
    loader, preprocessing = Loader(data, "train", batch, backend), Preprocessing("meanstd").to(device)
    inputs = Inputs(loader, preprocessing, "per-image", "per-image", 1, dtype, device)
    for epoch in count():
        order = sample_order(1, epoch, loader.samples)[: loader.samples // batch * batch]
        for part in inputs.batches(epoch, order):
            yield part.images, part.labels


def _torchvision(data: Path, batch: int, device: torch.device) -> Iterator[tuple[Tensor, Tensor]]:
    """As public ports do: PIL images, torchvision's transforms, two worker processes."""
    from torchvision import transforms

    images, labels = read(open_split(data, "train").path)
    transform = transforms.Compose(
        [
            transforms.ToPILImage(),
            transforms.Pad(4, padding_mode="reflect"),
            transforms.RandomHorizontalFlip(),
            transforms.RandomCrop(32),
            transforms.ToTensor(),
            transforms.Normalize(np.array([125.3, 123.0, 113.9]) / 255, np.array([63.0, 62.1, 66.7]) / 255),
        ]
    )
    samples = _Samples(images, labels, transform)
    loader = DataLoader(samples, batch, shuffle=True, num_workers=2, drop_last=True, pin_memory=device.type == "cuda")
    while True:
        for x, y in loader:
            yield x.to(device, non_blocking=True), y.to(device, non_blocking=True)


@dataclass(frozen=True)
class _Samples(Dataset[tuple[Tensor, int]]):
    images: Stored
    labels: npt.NDArray[np.int64]
    transform: Callable[[Stored], Tensor]

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        return self.transform(self.images[index]), int(self.labels[index])


def forward_and_backward(network: str, batch: int, bf16: bool) -> float:
    """Seconds of a forward and backward pass, on random images; the first call builds and warms up.

    On a GPU by torch's own kernels, as the paper's were cuDNN's: to compile a thousand layers takes too long.
    """
    step = on_random_images(network, batch, 32, bf16, uncompiled(), update=False)
    with on_own_core():
        return seconds_of(step, MEASURE_S)


def uncompiled() -> Kernels:
    """The fastest kernels that torch.compile has no part in."""
    return "fused" if measuring.device().type == "cpu" else "torch"


def training_rate(
    network: str,
    batch: int,
    size: int,
    bf16: bool,
    kernels: Kernels,
    at_least: float = MEASURE_S,
    *,
    synchronised: bool = False,
) -> float:
    """Training images a second of our way, on random images of `size` x `size`, in so many seconds; keeps nothing."""
    step = on_random_images.__wrapped__(network, batch, size, bf16, kernels, update=True, synchronised=synchronised)
    with on_own_core():
        return batch / seconds_of(step, at_least)


@cache
def on_random_images(
    network: str,
    batch: int,
    size: int,
    bf16: bool,
    kernels: Kernels,
    *,
    update: bool,
    synchronised: bool = False,
    yields: bool = False,
) -> Callable[[], None]:
    """A warm step, with or without the update of the weights; by `kernels`, unless batch_norm is synchronised.

    `yields`: on the main thread's own core, and making way for neighbours where a training does.
    """
    device = measuring.device()
    bf16 = bf16 and devices.computed_in("bf16", device) == "bf16"  # as in a training
    rate = 0.3 if network.endswith("-dropout") else 0.0
    model: nn.Module = build(network, 10, conv_init="fan_in", bn_init="ones", dropout=rate, seed=1)
    model = model.to(device).to(memory_format=torch.channels_last)
    if synchronised:
        synchronise(model, device)
    else:
        use(kernels, model, device)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9, nesterov=True, weight_decay=5e-4, fused=True)
    images = torch.randn(batch, 3, size, size, device=device).to(memory_format=torch.channels_last)
    labels = torch.randint(10, (batch,), device=device)

    def step() -> None:
        with torch.autocast(device.type, torch.bfloat16, enabled=bf16):
            logits = model(images)
        optimizer.zero_grad(set_to_none=True)
        F.cross_entropy(logits.float(), labels).backward()  # type: ignore[no-untyped-call]
        if update:
            optimizer.step()

    def yielding_step() -> None:
        with on_own_core():
            step()
        if yielding:
            yielding.look()

    for _ in range(3):  # memory is taken from the system
        step()
    measuring.wait(device)
    yielding = Yielding() if yields and waits_in_openmp(model, "bf16" if bf16 else "fp32") else None
    return yielding_step if yields else step
