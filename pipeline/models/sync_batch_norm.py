"""Batch normalisation by the statistics of a mini-batch that several processes share: torch's on GPUs, and on CPUs,
where torch's does not run, one made of torch's differentiable operations."""

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn


class CPUSyncBatchNorm2d(nn.BatchNorm2d):
    """BatchNorm2d whose training statistics are those of all processes of torch.distributed's default group.

    The processes' shares may differ in size. A gradient is that of the sum of all processes' losses; weight and bias
    get a process's own part of it, which is for DistributedDataParallel to add up.
    """

    def forward(self, x: Tensor) -> Tensor:
        if not self.training or not dist.is_initialized():
            return super().forward(x)
        values = x.float()  # once, so that its gradients add up before they are rounded to x's precision
        variance, mean = (m.double() for m in torch.var_mean(values, (0, 2, 3), correction=0))
        own = x.numel() // x.shape[1]
        # In float64 the difference of two large numbers below keeps all digits that float32 has.
        sums = torch.cat([mean.new_full((1,), own), own * mean, own * (variance + mean.square())])
        n, total, squares = _SumOverProcesses.apply(sums).split([1, x.shape[1], x.shape[1]])
        mean = total / n
        variance = (squares / n - mean.square()).clamp(min=0)
        self._keep(mean.detach(), (variance * n / (n - 1)).detach())
        shift, scale = (v.float().view(1, -1, 1, 1) for v in (mean, (variance + self.eps).rsqrt() * self.weight))
        normalised: Tensor = (values - shift) * scale + self.bias.view(1, -1, 1, 1)
        return normalised.to(x.dtype)

    def _keep(self, mean: Tensor, variance: Tensor) -> None:
        assert self.num_batches_tracked is not None
        assert self.running_mean is not None
        assert self.running_var is not None
        assert self.momentum is not None
        self.num_batches_tracked.add_(1)
        self.running_mean.lerp_(mean.to(self.running_mean), self.momentum)
        self.running_var.lerp_(variance.to(self.running_var), self.momentum)


class _SumOverProcesses(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, own: Tensor) -> Tensor:
        total = own.clone()
        dist.all_reduce(total)
        return total

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        return _SumOverProcesses.forward(ctx, gradient)


def synchronise(model: nn.Module, device: torch.device) -> str:
    """Let `model` normalise so; says what it trains with now. Names, weights and evaluation stay as they are."""
    if device.type == "cpu":
        for module in model.modules():
            if type(module) is nn.BatchNorm2d:
                module.__class__ = CPUSyncBatchNorm2d  # it has the same state: only what forward does is another
    else:
        nn.SyncBatchNorm.convert_sync_batchnorm(model)  # type: ignore[no-untyped-call] # in place
    return "torch, batch normalisation synchronised"
