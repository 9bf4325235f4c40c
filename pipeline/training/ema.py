"""The exponential moving average of a model's weights and batch statistics: Protocol.weight_average."""

import torch
from torch import nn

from pipeline.params import WeightAverage


class EMA:
    """Follows `model`. `tensors` is empty before the first update, then what state_dict has, but for counters."""

    def __init__(self, model: nn.Module, settings: WeightAverage) -> None:
        self.model, self.settings = model, settings
        self.tensors: dict[str, torch.Tensor] = {}

    def update(self, done: int) -> None:
        """After `done` steps of the training in all."""
        if done % self.settings.every == 0:
            now = {k: v for k, v in self.model.state_dict().items() if v.is_floating_point()}
            if self.tensors:
                torch._foreach_lerp_(list(self.tensors.values()), list(now.values()), 1 - self.settings.decay)
            else:
                self.tensors = {k: v.clone() for k, v in now.items()}

    def copy_to(self, model: nn.Module) -> None:
        """Make the average the weights of `model`."""
        model.load_state_dict(self.tensors, strict=False)
