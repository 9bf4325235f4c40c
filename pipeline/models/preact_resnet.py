"""Pre-activation residual networks: every WRN-d-k for CIFAR and SVHN, the thin pre-act-ResNets, and pre-ResNet-200.

State-dict names: `conv1` (stem), `group1.block1.{bn1,conv1,bn2,conv2,...,shortcut}`, `bn`, `fc`; groups, blocks and
convolutions count from 1, `bnI` stands before `convI`, `shortcut` exists only where it is a convolution.
"""

from collections import OrderedDict
from collections.abc import Callable
from itertools import pairwise

import torch.nn.functional as F
from torch import Tensor, nn

from pipeline.models.names import Network

Activate = Callable[[nn.BatchNorm2d, Tensor], tuple[Tensor, Tensor]]
"""BN-ReLU. Maps x to x itself, for a shortcut, and relu(bn(x)); bn_relu.py has another than the one below."""

Convolve = Callable[[nn.Conv2d, Tensor], Tensor]
"""A convolution of an input; convolution.py has another than the one below."""


def batch_norm_relu(bn: nn.BatchNorm2d, x: Tensor) -> tuple[Tensor, Tensor]:
    """x and relu(bn(x)), by torch."""
    # In place is safe after BN: its backward needs its input, not its output.
    return x, F.relu(bn(x), inplace=True)


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

    def __init__(
        self,
        widths: tuple[int, ...],
        kernels: tuple[int, ...],
        stride: int,
        *,
        dropout: float = 0.0,
        strided: int = 1,
        activate_input: bool = True,
    ) -> None:
        """`widths` is the input's and then each convolution's; convolution number `strided` (from 1) has the stride."""
        super().__init__()
        self.length = len(kernels)
        for i, (kernel, (inputs, outputs)) in enumerate(zip(kernels, pairwise(widths), strict=True), start=1):
            if i > 1 or activate_input:
                setattr(self, f"bn{i}", nn.BatchNorm2d(inputs))
            step = stride if i == strided else 1
            setattr(self, f"conv{i}", nn.Conv2d(inputs, outputs, kernel, step, kernel // 2, bias=False))
        self.activate_input = activate_input
        self.activate: Activate = batch_norm_relu
        self.convolve: Convolve = convolution
        # nn.Dropout draws its masks from torch's global generator, which the trainer seeds at every step.
        self.dropout = nn.Dropout(dropout) if dropout else None
        identity = widths[0] == widths[-1] and stride == 1
        self.shortcut = None if identity else nn.Conv2d(widths[0], widths[-1], 1, stride, bias=False)

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
            modules: OrderedDict[str, nn.Module] = OrderedDict(
                (
                    block.name,
                    PreActBlock(
                        block.widths,
                        network.kernels,
                        block.stride,
                        dropout=dropout,
                        strided=network.strided,
                        activate_input=block.activates_input,
                    ),
                )
                for block in blocks
            )
            setattr(self, f"group{group}", nn.Sequential(modules))
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
