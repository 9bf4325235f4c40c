"""Residual networks from their printed names: pre-activation (every WRN-d-k for CIFAR and SVHN, the thin
pre-act-ResNets, pre-ResNet-200) and post-activation (ImageNet's ResNets, plain and widened, Tables 7 and 8).

State-dict names count from 1: `conv1` and ImageNet's `bn1` (stem), `group1.block1.{bn1,conv1,...,shortcut}`, `bn` and
`fc`. `bnI` stands before `convI`, post-activation behind it. Where a shortcut is a convolution it is `shortcut`,
post-activation `{shortcut_conv,shortcut_bn}`; those networks have no `bn`.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from itertools import groupby
from typing import assert_never

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pipeline.errors import UserError
from pipeline.models.names import Network, Shape, parse
from pipeline.params import BnInit, ConvInit

Activate = Callable[[nn.BatchNorm2d, Tensor], tuple[Tensor, Tensor]]
"""BN-ReLU. Maps x to x itself, for a shortcut, and relu(bn(x)); pipeline/kernels has another than the one below."""

Convolve = Callable[[nn.Conv2d, Tensor], Tensor]
"""A convolution of an input; pipeline/kernels has another than the one below."""


def batch_norm_relu(bn: nn.BatchNorm2d, x: Tensor) -> tuple[Tensor, Tensor]:
    """x and relu(bn(x)), by torch."""
    # In place is safe after BN: its backward needs its input, not its output.
    return x, F.relu(bn(x), inplace=True)


def convolution(conv: nn.Conv2d, x: Tensor) -> Tensor:
    """By torch."""
    y: Tensor = conv(x)
    return y


def _add(to: nn.Module, shapes: Sequence[Shape]) -> None:
    for shape in shapes:
        if shape.kernel is None:
            layer: nn.Module = nn.BatchNorm2d(shape.outputs)
        else:
            of = shape.inputs, shape.outputs, shape.kernel, shape.stride
            layer = nn.Conv2d(*of, padding=shape.kernel // 2, bias=False)
        to.add_module(shape.name, layer)


class _Block(nn.Module):
    """The layers of a block. Maps (B, inputs, H, W) to (B, outputs, H/stride, W/stride)."""

    def __init__(self, shapes: Sequence[Shape]) -> None:
        super().__init__()
        _add(self, shapes)
        self.length = sum(shape.name.startswith("conv") for shape in shapes)
        self.activates_input = shapes[0].kernel is None
        self.keeps_shape = not shapes[-1].name.startswith("shortcut")


class PreActBlock(_Block):
    """BN-ReLU-conv, repeated, plus a shortcut (Section 2 of the paper; He et al. 2016). Dropout, if any, stands after
    each ReLU but the block's first, between the convolutions (Section 2.4)."""

    bn1: nn.BatchNorm2d
    conv1: nn.Conv2d
    shortcut: nn.Conv2d

    def __init__(self, shapes: Sequence[Shape], dropout: float = 0.0) -> None:
        super().__init__(shapes)
        self.activate: Activate = batch_norm_relu
        self.convolve: Convolve = convolution
        # nn.Dropout draws its masks from torch's global generator, which the trainer seeds at every step.
        self.dropout = nn.Dropout(dropout) if dropout else None

    def forward(self, x: Tensor) -> Tensor:
        x, activated = self.activate(self.bn1, x) if self.activates_input else (x, x)
        y = self.convolve(self.conv1, activated)
        for i in range(2, self.length + 1):
            _, y = self.activate(getattr(self, f"bn{i}"), y)
            if self.dropout is not None:
                y = self.dropout(y)
            y = self.convolve(getattr(self, f"conv{i}"), y)
        return y.add_(x if self.keeps_shape else self.convolve(self.shortcut, activated))


class PostActBlock(_Block):
    """conv-BN-ReLU, repeated, plus a shortcut before the last ReLU (He et al. 2015)."""

    shortcut_conv: nn.Conv2d
    shortcut_bn: nn.BatchNorm2d

    def forward(self, x: Tensor) -> Tensor:
        y = x
        for i in range(1, self.length + 1):
            y = getattr(self, f"bn{i}")(getattr(self, f"conv{i}")(y))
            if i < self.length:
                y = F.relu(y, inplace=True)
        y.add_(x if self.keeps_shape else self.shortcut_bn(self.shortcut_conv(x)))
        return F.relu(y, inplace=True)


class ResNet(nn.Module):
    """Stem, groups of blocks, BN-ReLU after pre-activation blocks, global average pooling, FC. Images (B, 3, H, W) to
    logits (B, classes)."""

    conv1: nn.Conv2d
    bn1: nn.BatchNorm2d
    bn: nn.BatchNorm2d

    def __init__(self, network: Network, num_classes: int, dropout: float = 0.0) -> None:
        super().__init__()
        self.activate: Activate = batch_norm_relu
        self.convolve: Convolve = convolution
        self.is_imagenet, self.is_preactivation = network.is_imagenet, network.is_preactivation
        self.groups, width = len(network.blocks_per_group), 0
        for path, layers in groupby(network.layers(), key=lambda shape: shape.name.rpartition(".")[0]):
            shapes = [replace(shape, name=shape.name.rpartition(".")[2]) for shape in layers]
            width = shapes[-1].outputs
            if not path:
                _add(self, shapes)
                continue
            group, name = path.split(".")
            if name == "block1":
                self.add_module(group, nn.Sequential())
            block = PreActBlock(shapes, dropout) if self.is_preactivation else PostActBlock(shapes)
            self.get_submodule(group).add_module(name, block)
        self.fc = nn.Linear(width, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        x = self.convolve(self.conv1, x)
        if self.is_imagenet:
            x = F.max_pool2d(self.activate(self.bn1, x)[1], 3, 2, 1)
        for group in range(1, self.groups + 1):
            x = getattr(self, f"group{group}")(x)
        if self.is_preactivation:
            _, x = self.activate(self.bn, x)
        logits: Tensor = self.fc(x.mean((2, 3)))
        return logits


def build(
    name: str, num_classes: int, *, conv_init: ConvInit, bn_init: BnInit, dropout: float = 0.0, seed: int
) -> nn.Module:
    """Build the network that `name` prints, on the CPU, in float32 and training mode.

    `conv_init`: He normal by inputs (authors' code from September 2016: Tables 5, 6, 9) or by outputs (before it:
    Tables 2-4; also the public ImageNet recipe). `bn_init`: BN weights U(0, 1), Torch7's default, or 1. `dropout`:
    probability of zeroing, for names that end in `-dropout`, which need one. The same arguments give the same bits;
    torch's global random state is neither read nor moved.

    Raises UserError for a bad name or dropout rate.
    """
    network = parse(name)
    if network.dropout and not 0.0 < dropout < 1.0:
        raise UserError(
            f"{network.name}: dropout rate {dropout} is not between 0 and 1",
            "set the protocol's dropout, 0.3 on CIFAR and 0.4 on SVHN in the paper (Table 6)",
        )
    module = skeleton(network, num_classes, dropout=dropout).to_empty(device="cpu")
    initialise(module, conv_init=conv_init, bn_init=bn_init, seed=seed)
    return module


def skeleton(network: Network, num_classes: int, *, dropout: float = 0.0) -> nn.Module:
    """The network on torch's meta device: shapes without memory or values."""
    with torch.device("meta"):
        return ResNet(network, num_classes, dropout if network.dropout else 0.0)


def initialise(module: nn.Module, *, conv_init: ConvInit, bn_init: BnInit, seed: int) -> None:
    """Set every parameter and buffer of `module` (CPU), in module order, from one generator seeded with `seed`.

    Convolutions: normal, std sqrt(2 / (k*k*channels)), and bias 0 where they have one. FC: weight U(-1/sqrt(inputs),
    1/sqrt(inputs)), Torch7's default that the authors' Lua code left in place, and bias 0. BN: bias 0, running mean 0
    and variance 1. Raises TypeError for another kind of layer with parameters: they would stay what lay in memory.
    """
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for layer in module.modules():
            if isinstance(layer, nn.Conv2d):
                channels = {"fan_in": layer.in_channels, "fan_out": layer.out_channels}[conv_init]
                fan = channels * layer.kernel_size[0] * layer.kernel_size[1]
                layer.weight.normal_(0.0, math.sqrt(2.0 / fan), generator=generator)
                if layer.bias is not None:
                    layer.bias.zero_()
            elif isinstance(layer, nn.BatchNorm2d):
                layer.reset_running_stats()
                layer.bias.zero_()
                if bn_init == "uniform":
                    layer.weight.uniform_(0.0, 1.0, generator=generator)
                elif bn_init == "ones":
                    layer.weight.fill_(1.0)
                else:
                    assert_never(bn_init)
            elif isinstance(layer, nn.Linear):
                bound = 1.0 / math.sqrt(layer.in_features)
                layer.weight.uniform_(-bound, bound, generator=generator)
                layer.bias.zero_()
            elif [*layer.parameters(recurse=False), *layer.buffers(recurse=False)]:
                raise TypeError(f"nothing sets the parameters of a {type(layer).__name__}: pipeline/models/resnet.py")
