"""Residual networks: pre-activation (every WRN-d-k for CIFAR and SVHN, the thin pre-act-ResNets, pre-ResNet-200) and
post-activation (ImageNet's ResNets, plain and widened, Tables 7 and 8).

State-dict names count from 1: `conv1` and ImageNet's `bn1` (stem), `group1.block1.{bn1,conv1,...,shortcut}`, `bn` and
`fc`. `bnI` stands before `convI`, post-activation behind it. Where a shortcut is a convolution it is `shortcut`,
post-activation `{shortcut_conv,shortcut_bn}`; those networks have no `bn`.
"""

from collections.abc import Callable, Sequence
from dataclasses import replace
from itertools import groupby

import torch.nn.functional as F
from torch import Tensor, nn

from pipeline.models.names import Network, Shape

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
