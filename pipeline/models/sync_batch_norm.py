"""Batch normalisation by the statistics of a mini-batch that several processes share: torch's on GPUs, and on CPUs,
where torch's does not run, one of torch's operations and one all-reduce of 2 C + 1 numbers in each direction."""

from typing import Any

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

_PER_CHANNEL = (0, 2, 3)


class CPUSyncBatchNorm2d(nn.BatchNorm2d):
    """BatchNorm2d whose training statistics are those of all processes of torch.distributed's default group.

    The processes' shares may differ in size. A gradient is that of the sum of all processes' losses; weight and bias
    get a process's own part of it, which is for DistributedDataParallel to add up.
    """

    def forward(self, x: Tensor) -> Tensor:
        if not self.training:
            return super().forward(x)
        assert self.num_batches_tracked is not None
        self.num_batches_tracked.add_(1)
        normalised: Tensor = _Normalise.apply(x, self.weight, self.bias, self)
        return normalised


def synchronise(model: nn.Module, device: torch.device) -> str:
    """Let `model` normalise so; says what it trains with now. Names, weights and evaluation stay as they are."""
    if device.type == "cpu":
        for module in model.modules():
            if type(module) is nn.BatchNorm2d:
                module.__class__ = CPUSyncBatchNorm2d  # it has the same state: only what forward does is another
    else:
        nn.SyncBatchNorm.convert_sync_batchnorm(model)  # type: ignore[no-untyped-call] # in place
    return "torch, batch normalisation synchronised"


class _Normalise(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor, bn: Any) -> Tensor:
        own_variance, own_mean = (m.double() for m in torch.var_mean(x.float(), _PER_CHANNEL, correction=0))
        own = x.numel() // x.shape[1]
        # In float64 the difference of two large numbers below keeps all digits that float32 has.
        sums = torch.cat([own_mean.new_full((1,), own), own * own_mean, own * (own_variance + own_mean.square())])
        _add_up(sums)
        n, total, squares = torch.split(sums, [1, x.shape[1], x.shape[1]])
        mean = total / n
        variance = (squares / n - mean.square()).clamp_(min=0)
        bn.running_mean.lerp_(mean.float(), bn.momentum)
        bn.running_var.lerp_((variance * n / (n - 1)).float(), bn.momentum)
        ctx.save_for_backward(x, weight, mean.float(), (variance + bn.eps).rsqrt().float(), n)
        return F.batch_norm(x, mean.float(), variance.float(), weight, bias, training=False, eps=bn.eps)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor | None, ...]:
        x, weight, mean, scale, n = ctx.saved_tensors
        dy = dy.float()
        normalised = (x - _wide(mean)) * _wide(scale)
        dbias, dweight = dy.sum(_PER_CHANNEL), (dy * normalised).sum(_PER_CHANNEL)
        sums = torch.stack([dbias, dweight]).double()
        _add_up(sums)
        of_bias, of_weight = (sums / n).float()
        dx = _wide(weight * scale) * (dy - _wide(of_bias) - normalised * _wide(of_weight))
        return dx.to(x.dtype), dweight, dbias, None


def _add_up(sums: Tensor) -> None:
    if dist.is_initialized():
        dist.all_reduce(sums)


def _wide(per_channel: Tensor) -> Tensor:
    return per_channel.view(1, -1, 1, 1)
