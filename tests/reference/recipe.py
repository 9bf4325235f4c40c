"""The training recipe and its evaluation, written a second time and plainly: the product's numbers are held against it.

Made from what the paper and its code say and from the documented hash of the random draws; imports nothing of
`pipeline`. In float64, for WRN-d-k with B(3,3) on 32x32 images. Gradients are by torch's autograd; updates, batch
normalisation, learning rates, averages and draws are spelled out here. A protocol is one of params.yaml, as a dict.
"""

import math
import pickle
import tarfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

Tensors = dict[str, Tensor]
Split = tuple[np.ndarray, list[int]]
"""Images uint8 [N, 32, 32, 3] and labels."""

ORDER, FLIP, CROP_ROW, CROP_COLUMN, DROPOUT, HOLDOUT = 1, 2, 3, 4, 6, 11
WORD, GOLDEN, BN_MOMENTUM, BN_EPS = 2**64 - 1, 0x9E3779B97F4A7C15, 0.1, 1e-5


def read_archive(path: Path) -> dict[str, Split]:
    """CIFAR-10 in its published python layout: five training batches and one of test images, channel first."""
    names = {"train": [f"data_batch_{i}" for i in range(1, 6)], "test": ["test_batch"]}
    with tarfile.open(path) as archive:
        members = {Path(member.name).name: archive.extractfile(member) for member in archive if member.isfile()}
        batches = {name: pickle.load(members[name], encoding="bytes") for split in names.values() for name in split}
    return {
        split: (
            np.concatenate([batches[name][b"data"] for name in of]).reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1),
            [label for name in of for label in batches[name][b"labels"]],
        )
        for split, of in names.items()
    }


def mix(x: int) -> int:
    """The finaliser of SplitMix64."""
    x = (x ^ (x >> 30)) * 0xBF58476D1CE4E5B9 & WORD
    x = (x ^ (x >> 27)) * 0x94D049BB133111EB & WORD
    return x ^ (x >> 31)


def draw(seed: int, stream: int, epoch: int, index: int) -> int:
    """64 uniform bits for these coordinates."""
    word = seed
    for coordinate in (stream, epoch):
        word = (mix((word + GOLDEN) & WORD) + coordinate) & WORD
    return mix(mix((word + GOLDEN) & WORD) ^ (index * GOLDEN & WORD))


def held_out(n: int, holdout: int) -> list[int]:
    """Those of n training images that are kept from training, whatever the seed: the lowest draws."""
    return sorted(sorted(range(n), key=lambda i: draw(0, HOLDOUT, 0, i))[:holdout])


def mini_batches(protocol: Mapping[str, Any], seed: int, epoch: int, n: int) -> list[list[int]]:
    """Of an epoch over n images, without those held out: in the order of their draws."""
    kept = set(range(n)) - set(held_out(n, protocol.get("holdout", 0)))
    order = sorted(kept, key=lambda i: draw(seed, ORDER, epoch, i))
    size = protocol["batch_size"]
    batches = [order[start : start + size] for start in range(0, len(order), size)]
    return [batch for batch in batches if len(batch) == size or not protocol["drop_last"]]


def augmented(
    protocol: Mapping[str, Any], seed: int, epoch: int, step: int, chosen: list[int], images: np.ndarray
) -> np.ndarray:
    """A mini-batch, each image mirrored or not, then cropped from its 4-pixel reflection pad."""
    flips = {i: draw(seed, FLIP, epoch, i) for i in chosen}
    if protocol["flip"] == "half-batch":
        mirrored = set(sorted(chosen, key=flips.__getitem__)[: len(chosen) // 2])
    else:
        mirrored = {i for i in chosen if protocol["flip"] == "per-image" and flips[i] >= 2**63}
    cropped = []
    for i in chosen:
        row, column = 4, 4  # no shift
        if protocol["crop"] != "none":
            where = {"per-image": i, "per-batch": step}[protocol["crop"]]
            row, column = ((draw(seed, s, epoch, where) >> 32) * 9 >> 32 for s in (CROP_ROW, CROP_COLUMN))
        image = images[i][:, ::-1] if i in mirrored else images[i]
        padded = np.pad(image, ((4, 4), (4, 4), (0, 0)), mode="reflect")
        cropped.append(padded[row : row + 32, column : column + 32])
    return np.stack(cropped)


def normalised(kind: str, images: np.ndarray) -> Tensor:
    """[B, 3, 32, 32], rounded to float32 as the product's input is."""
    mean, std = {"meanstd": ([125.3, 123.0, 113.9], [63.0, 62.1, 66.7]), "unit": ([0.0] * 3, [255.0] * 3)}[kind]
    values = (images.astype(np.float32) - np.float32(mean)) / np.float32(std)
    return torch.from_numpy(values.astype(np.float64)).permute(0, 3, 1, 2)


def layers(depth: int, k: int, classes: int) -> Iterator[tuple[str, tuple[int, ...]]]:
    """Name and weight's shape, in the network's order: convolutions have 4 dimensions, the FC 2, BN 1."""
    yield "conv1", (16, 3, 3, 3)
    before = 16
    for group, width in enumerate((16 * k, 32 * k, 64 * k), start=1):
        for block in range(1, (depth - 4) // 6 + 1):
            name = f"group{group}.block{block}"
            yield f"{name}.bn1", (before,)
            yield f"{name}.conv1", (width, before, 3, 3)
            yield f"{name}.bn2", (width,)
            yield f"{name}.conv2", (width, width, 3, 3)
            if before != width:
                yield f"{name}.shortcut", (width, before, 1, 1)
            before = width
    yield "bn", (before,)
    yield "fc", (classes, before)


def initial(depth: int, k: int, classes: int, conv_init: str, bn_init: str, seed: int) -> Tensors:
    """He's normal convolutions; BN weights U(0, 1) or 1; FC weight U(-1/sqrt(inputs), 1/sqrt(inputs)); biases 0."""
    generator = torch.Generator().manual_seed(seed)
    state: Tensors = {}
    for name, shape in layers(depth, k, classes):
        weight = torch.ones(shape)
        if len(shape) == 4:
            fan = (shape[1] if conv_init == "fan_in" else shape[0]) * shape[2] * shape[3]
            weight.normal_(0.0, math.sqrt(2 / fan), generator=generator)
        elif len(shape) == 2:
            weight.uniform_(-1 / math.sqrt(shape[1]), 1 / math.sqrt(shape[1]), generator=generator)
        elif bn_init == "uniform":
            weight.uniform_(0.0, 1.0, generator=generator)
        state[f"{name}.weight"] = weight
        if len(shape) != 4:
            state[f"{name}.bias"] = torch.zeros(shape[0])
        if len(shape) == 1:
            state[f"{name}.running_mean"], state[f"{name}.running_var"] = torch.zeros(shape), torch.ones(shape)
    return {name: value.double() for name, value in state.items()}


def bn_relu(state: Tensors, name: str, x: Tensor, training: bool) -> Tensor:
    """In training by the mini-batch's own statistics, which the running ones follow (their variance is unbiased)."""
    mean, var = state[f"{name}.running_mean"], state[f"{name}.running_var"]
    if training:
        n = x.shape[0] * x.shape[2] * x.shape[3]
        mean, var = x.mean((0, 2, 3)), ((x - x.mean((0, 2, 3), keepdim=True)) ** 2).mean((0, 2, 3))
        for what, seen in (("running_mean", mean.detach()), ("running_var", var.detach() * n / (n - 1))):
            state[f"{name}.{what}"] = (1 - BN_MOMENTUM) * state[f"{name}.{what}"] + BN_MOMENTUM * seen
    mean, var, weight, bias = (v.view(1, -1, 1, 1) for v in (mean, var, state[f"{name}.weight"], state[f"{name}.bias"]))
    return F.relu((x - mean) / torch.sqrt(var + BN_EPS) * weight + bias)


def network(state: Tensors, depth: int, x: Tensor, training: bool, dropout: float = 0.0) -> Tensor:
    """Logits. Dropout acts in training only, between a block's convolutions; masks are of torch's global generator."""
    x = F.conv2d(x, state["conv1.weight"], padding=1)
    for group in (1, 2, 3):
        for block in range(1, (depth - 4) // 6 + 1):
            name = f"group{group}.block{block}"
            stride = 2 if group > 1 and block == 1 else 1
            activated = bn_relu(state, f"{name}.bn1", x, training)
            y = F.conv2d(activated, state[f"{name}.conv1.weight"], stride=stride, padding=1)
            y = bn_relu(state, f"{name}.bn2", y, training)
            if training and dropout:
                kept = torch.empty_like(y, memory_format=torch.channels_last).bernoulli_(1 - dropout)
                y = y * kept / (1 - dropout)
            y = F.conv2d(y, state[f"{name}.conv2.weight"], padding=1)
            shortcut = state.get(f"{name}.shortcut.weight")
            x = y + (x if shortcut is None else F.conv2d(activated, shortcut, stride=stride))
    return bn_relu(state, "bn", x, training).mean((2, 3)) @ state["fc.weight"].T + state["fc.bias"]


def learning_rate(protocol: Mapping[str, Any], epoch: int, step: int, steps: int) -> float:
    """For a step of an epoch, both counted from 0."""
    schedule, rate = protocol["schedule"], protocol["learning_rate"]
    if schedule["kind"] == "step":  # at the start of the epoch after so many completed ones
        for completed in schedule["drop_after"]:
            rate *= schedule["factor"] if epoch >= completed else 1.0
        return rate
    done = (epoch * steps + step) / (protocol["epochs"] * steps)
    warm, start = schedule["warmup_fraction"], schedule["start_factor"]
    return rate * (start + (1 - start) * done / warm if done < warm else (1 - done) / (1 - warm))


def loss_of(logits: Tensor, labels: Tensor, smoothing: float) -> Tensor:
    """Mean cross-entropy with targets that spread `smoothing` evenly over all classes."""
    classes = logits.shape[1]
    targets = torch.full_like(logits, smoothing / classes)
    targets[torch.arange(len(labels)), labels] += 1 - smoothing
    return -(targets * torch.log_softmax(logits, 1)).sum(1).mean()


@dataclass(frozen=True)
class Epoch:
    """What an epoch's steps did, and the state after it."""

    rates: list[float]
    """Learning rate of each step."""
    logits: list[Tensor]
    """Of each step's mini-batch."""
    loss: float
    """Mean over the samples seen."""
    error: float
    """Percent of the samples seen."""
    state: Tensors
    published: Tensors
    """The average of the states, where the protocol asks for one and an update was due; else the state."""


def train(protocol: Mapping[str, Any], depth: int, k: int, seed: int, data: Split, dropout: float = 0.0) -> list[Epoch]:
    """All epochs, from the initial weights on."""
    images, labels = data[0], torch.tensor(data[1])
    state = initial(depth, k, 10, protocol["conv_init"], protocol["bn_init"], seed)
    schedule, averaging = protocol["schedule"], protocol.get("weight_average")
    momentum, average, done, epochs = dict[str, Tensor](), Tensors(), 0, list[Epoch]()
    for epoch in range(protocol["epochs"]):
        if schedule["kind"] == "step" and schedule["reset_momentum"] and epoch in schedule["drop_after"]:
            momentum = {}
        batches = mini_batches(protocol, seed, epoch, len(images))
        rates, all_logits, losses, wrong, seen = [], [], 0.0, 0, sum(map(len, batches))
        for step, chosen in enumerate(batches):
            pixels = normalised(protocol["preprocessing"], augmented(protocol, seed, epoch, step, chosen, images))
            torch.manual_seed(draw(seed, DROPOUT, epoch, step) >> 1)
            names = [name for name in state if "running" not in name]
            for name in names:
                state[name] = state[name].detach().requires_grad_()
            logits = network(state, depth, pixels, True, dropout)
            loss = loss_of(logits, labels[chosen], protocol["label_smoothing"])
            gradients = torch.autograd.grad(loss, [state[name] for name in names])
            rate = learning_rate(protocol, epoch, step, len(batches))
            for name, gradient in zip(names, gradients, strict=True):
                weight = state[name].detach()
                gradient = gradient + protocol["weight_decay"] * weight
                momentum[name] = protocol["momentum"] * momentum.get(name, torch.zeros_like(weight)) + gradient
                ahead = gradient + protocol["momentum"] * momentum[name] if protocol["nesterov"] else momentum[name]
                state[name] = weight - rate * ahead
            done += 1
            if averaging and done % averaging["every"] == 0:
                decay = averaging["decay"] if average else 0.0
                average = {name: (1 - decay) * v + (decay * average[name] if decay else 0) for name, v in state.items()}
            rates.append(rate)
            all_logits.append(logits.detach())
            losses += float(loss.detach()) * len(chosen)
            wrong += int((logits.argmax(1) != labels[chosen]).sum())
        epochs.append(Epoch(rates, all_logits, losses / seen, 100 * wrong / seen, dict(state), dict(average or state)))
    return epochs


def probabilities(state: Tensors, depth: int, preprocessing: str, images: np.ndarray) -> Tensor:
    """[N, classes] of the images as they are, normalised by the running statistics."""
    with torch.no_grad():
        return torch.softmax(network(state, depth, normalised(preprocessing, images), False), 1)
