"""Pre-activation residual networks: every WRN-d-k for CIFAR and SVHN, the thin pre-act-ResNets, and pre-ResNet-200.

State-dict names: `conv1` (stem), `group1.block1.{bn1,conv1,bn2,conv2,...,shortcut}`, `bn`, `fc`; groups, blocks and
convolutions count from 1, `bnI` stands before `convI`, `shortcut` exists only where it is a convolution.
"""

from collections import OrderedDict
from collections.abc import Callable
from itertools import pairwise

import torch.nn.functional as F
from torch import Tensor, nn

from pipeline.models.names import Block, Network

Activate = Callable[[nn.BatchNorm2d, Tensor], tuple[Tensor, Tensor]]
"""BN-ReLU. Maps x to x itself, for a shortcut, and relu(bn(x)); bn_relu.py has another than the one below."""

Convolve = Callable[[nn.Conv2d, Tensor], Tensor]
"""A convolution of an input; convolution.py has another than the one below."""


def batch_norm_relu(bn: nn.BatchNorm2d, x: Tensor) -> tuple[Tensor, Tensor]:
    """x and relu(bn(x)), by torch."""
    # In place is safe after BN: its backward needs its input, not its output.
    return x, F.relu(bn(x), inplace=True)


def convolutions(network: Network, block: Block) -> list[nn.Conv2d]:
    """Those of a block in order, each padded to keep the image's size where it has no stride."""
    strides = [block.stride if i == network.strided else 1 for i in range(1, len(network.kernels) + 1)]
    of_each = zip(pairwise(block.widths), network.kernels, strides, strict=True)
    return [nn.Conv2d(*widths, kernel, stride, kernel // 2, bias=False) for widths, kernel, stride in of_each]


def shortcut(block: Block) -> nn.Conv2d:
    return nn.Conv2d(block.widths[0], block.widths[-1], 1, block.stride, bias=False)


def convolution(conv: nn.Conv2d, x: Tensor) -> Tensor:
    """By torch."""
    y: Tensor = conv(x)
    return y


class PreActBlock(nn.Module):
    """BN-ReLU-conv, repeated, plus a shortcut (Section 2 of the paper; He et al. 2016).

    Maps (B, widths[0], H, W) to (B, widths[-1], H/stride, W/stride). Dropout, if any, stands after each ReLU but the
    block's first, between the convolutions (Section 2.4).
    """

    bn1: nn.BatchNorm2d
    conv1: nn.Conv2d

    def __init__(self, network: Network, block: Block, dropout: float = 0.0) -> None:
        super().__init__()
        self.length = len(network.kernels)
        for i, conv in enumerate(convolutions(network, block), start=1):
            if i > 1 or block.activates_input:
                setattr(self, f"bn{i}", nn.BatchNorm2d(conv.in_channels))
            setattr(self, f"conv{i}", conv)
        self.activate_input = block.activates_input
        self.activate: Activate = batch_norm_relu
        self.convolve: Convolve = convolution
        # nn.Dropout draws its masks from torch's global generator, which the trainer seeds at every step.
        self.dropout = nn.Dropout(dropout) if dropout else None
        self.shortcut = None if block.keeps_shape else shortcut(block)

    def forward(self, x: Tensor) -> Tensor:
        x, activated = self.activate(self.bn1, x) if self.activate_input else (x, x)
        y = self.convolve(self.conv1, activated)
        for i in range(2, self.length + 1):
            _, y = self.activate(getattr(self, f"bn{i}"), y)
            if self.dropout is not None:
                y = self.dropout(y)
            y = self.convolve(getattr(self, f"conv{i}"), y)
        return y.add_(x if self.shortcut is None else self.convolve(self.shortcut, activated))


class PreActResNet(nn.Module):
    """Stem, groups of PreActBlocks, BN-ReLU, global average pooling, FC. Images (B, 3, H, W) to logits (B, classes)."""

    def __init__(self, network: Network, num_classes: int, dropout: float = 0.0) -> None:
        super().__init__()
        width = network.stem_width
        kernel, stride, padding = (7, 2, 3) if network.is_imagenet else (3, 1, 1)
        self.conv1 = nn.Conv2d(3, width, kernel, stride, padding, bias=False)
        self.bn1 = nn.BatchNorm2d(width) if network.is_imagenet else None
        self.groups = len(network.blocks_per_group)
        for group, blocks in enumerate(network.groups(), start=1):
            modules: dict[str, nn.Module] = {block.name: PreActBlock(network, block, dropout) for block in blocks}
            setattr(self, f"group{group}", nn.Sequential(OrderedDict(modules)))
        width = network.group_widths[-1][1]
        self.bn = nn.BatchNorm2d(width)
        self.fc = nn.Linear(width, num_classes)
        self.activate: Activate = batch_norm_relu
        self.convolve: Convolve = convolution

    def forward(self, x: Tensor) -> Tensor:
        x = self.convolve(self.conv1, x)
        if self.bn1 is not None:
            x = F.max_pool2d(self.activate(self.bn1, x)[1], 3, 2, 1)
        for group in range(1, self.groups + 1):
            x = getattr(self, f"group{group}")(x)
        _, x = self.activate(self.bn, x)
        logits: Tensor = self.fc(x.mean((2, 3)))
        return logits
