"""The optimiser, and the schedule of its learning rate."""

import torch
from torch import nn

from pipeline.params import Protocol, StepSchedule


def optimizer_of(protocol: Protocol, model: nn.Module) -> torch.optim.Optimizer:
    """SGD with momentum; each step sets its own rate. Fused: one pass over all parameters, which CPU and CUDA have."""
    momentum, decay, nesterov = protocol.momentum, protocol.weight_decay, protocol.nesterov
    make = {"sgd": torch.optim.SGD}[protocol.optimizer]
    return make(model.parameters(), momentum=momentum, weight_decay=decay, nesterov=nesterov, fused=True)


def learning_rate(protocol: Protocol, epoch: int, step: int, steps: int) -> float:
    """Rate for step `step` of `steps` in epoch `epoch`, both counted from 0."""
    schedule = protocol.schedule
    if isinstance(schedule, StepSchedule):
        return protocol.learning_rate * schedule.factor ** sum(epoch >= drop for drop in schedule.drop_after)
    done = (epoch * steps + step) / (protocol.epochs * steps)
    if done < schedule.warmup_fraction:
        rise = done / schedule.warmup_fraction
        return protocol.learning_rate * (schedule.start_factor + (1 - schedule.start_factor) * rise)
    return protocol.learning_rate * (1 - done) / (1 - schedule.warmup_fraction)


def resets_momentum(protocol: Protocol, epoch: int) -> bool:
    """Whether the momentum buffer is zeroed before epoch `epoch` (from 0)."""
    schedule = protocol.schedule
    return isinstance(schedule, StepSchedule) and schedule.reset_momentum and epoch in schedule.drop_after
