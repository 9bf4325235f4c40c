"""Post-activation ResNets for ImageNet, plain and widened (Tables 7 and 8).

State-dict names: `conv1`, `bn1` (stem), `group1.block1.{conv1,bn1,conv2,bn2,...}`, and where the shortcut is a
convolution `group1.block1.{shortcut_conv,shortcut_bn}`, then `fc`; all count from 1, `bnI` follows `convI`.
"""

from collections import OrderedDict

import torch.nn.functional as F
from torch import Tensor, nn

from pipeline.models.names import Block, Network
from pipeline.models.preact_resnet import convolutions, shortcut


class PostActBlock(nn.Module):
    """conv-BN-ReLU, repeated, plus a shortcut before the last ReLU (He et al. 2015).

    Maps (B, widths[0], H, W) to (B, widths[-1], H/stride, W/stride).
    """

    def __init__(self, network: Network, block: Block) -> None:
        super().__init__()
        self.length = len(network.kernels)
        for i, conv in enumerate(convolutions(network, block), start=1):
            setattr(self, f"conv{i}", conv)
            setattr(self, f"bn{i}", nn.BatchNorm2d(conv.out_channels))
        self.identity = block.keeps_shape
        if not self.identity:
            self.shortcut_conv = shortcut(block)
            self.shortcut_bn = nn.BatchNorm2d(block.widths[-1])

    def forward(self, x: Tensor) -> Tensor:
        y = x
        for i in range(1, self.length + 1):
            y = getattr(self, f"bn{i}")(getattr(self, f"conv{i}")(y))
            if i < self.length:
                y = F.relu(y, inplace=True)
        y.add_(x if self.identity else self.shortcut_bn(self.shortcut_conv(x)))
        return F.relu(y, inplace=True)


class PostActResNet(nn.Module):
    """7x7 stem, max pooling, four groups, global average pooling, FC. Images (B, 3, H, W) to logits (B, classes)."""

    def __init__(self, network: Network, num_classes: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, network.stem_width, 7, 2, 3, bias=False)
        self.bn1 = nn.BatchNorm2d(network.stem_width)
        for group, blocks in enumerate(network.groups(), start=1):
            modules: dict[str, nn.Module] = {block.name: PostActBlock(network, block) for block in blocks}
            setattr(self, f"group{group}", nn.Sequential(OrderedDict(modules)))
        self.fc = nn.Linear(network.group_widths[-1][1], num_classes)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.bn1(self.conv1(x)), inplace=True)
        x = F.max_pool2d(x, 3, 2, 1)
        for group in range(1, 5):
            x = getattr(self, f"group{group}")(x)
        logits: Tensor = self.fc(x.mean((2, 3)))
        return logits
