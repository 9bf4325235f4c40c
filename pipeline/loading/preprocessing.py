"""From stored bytes to the network's input."""

from typing import Literal

import torch
from torch import nn

# The authors' code applies CIFAR-10's constants to CIFAR-100 as well.
_CONSTANTS = {
    "meanstd": ((125.3, 123.0, 113.9), (63.0, 62.1, 66.7)),
    "imagenet": ((123.675, 116.28, 103.53), (58.395, 57.12, 57.375)),
    "unit": ((0.0, 0.0, 0.0), (255.0, 255.0, 255.0)),
}


class Preprocessing(nn.Module):
    """uint8 [B,H,W,3] -> float32 [B,3,H,W] in channels_last memory: (pixel - mean) / std on the 0-255 scale."""

    mean: torch.Tensor
    std: torch.Tensor

    def __init__(self, kind: Literal["meanstd", "zca", "unit", "imagenet"]) -> None:
        super().__init__()
        if kind not in _CONSTANTS:
            raise ValueError(f"{kind} is applied when the data is converted, not to bytes")
        mean, std = _CONSTANTS[kind]
        self.register_buffer("mean", torch.tensor(mean))
        self.register_buffer("std", torch.tensor(std))

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return ((images.float() - self.mean) / self.std).permute(0, 3, 1, 2)
