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
    """[B,H,W,3] -> float32 [B,3,H,W] in channels_last memory: (pixel - mean) / std of bytes, or of floats on their
    scale of 0-255. Of kind zca, float32 that was whitened when the data was converted passes as it is."""

    mean: torch.Tensor
    std: torch.Tensor

    def __init__(self, kind: Literal["meanstd", "zca", "unit", "imagenet"]) -> None:
        super().__init__()
        self.kind = kind
        if kind != "zca":
            mean, std = _CONSTANTS[kind]
            self.register_buffer("mean", torch.tensor(mean))
            self.register_buffer("std", torch.tensor(std))

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        if self.kind != "zca":
            images = (images.float() - self.mean) / self.std
        return images.permute(0, 3, 1, 2)

    def table(self, dtype: torch.dtype) -> torch.Tensor | None:
        """[3,256]: what the bytes of each channel become, cast to `dtype`. None for kind zca, which changes nothing."""
        if self.kind == "zca":
            return None
        every = torch.arange(256, device=self.mean.device).view(1, 1, 256, 1).expand(1, 1, 256, 3)
        return self.forward(every)[0, :, 0].to(dtype).contiguous()
