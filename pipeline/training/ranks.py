"""The processes that train one network together, each with its share of every mini-batch: ranks, as torchrun counts."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn.parallel import DistributedDataParallel

from pipeline.params import Device
from pipeline.training import device as devices


@dataclass(frozen=True)
class Ranks:
    """One of `size` processes. What is collective here must be called by all of them, in the same order."""

    rank: int = 0
    size: int = 1
    device: torch.device | None = None
    """Of this process; None alone, where any may be chosen."""
    hosts: dist.ProcessGroup | None = None
    """The same processes by gloo, for numbers that no GPU has to know; None: the default group is that."""

    @property
    def is_rank_zero(self) -> bool:
        """The one that speaks and writes."""
        return self.rank == 0

    def around(self, model: nn.Module) -> nn.Module:
        """`model` as the steps call it: its gradients are the means over the processes. Collective."""
        if self.size == 1:
            return model
        return DistributedDataParallel(
            model,
            device_ids=[self.device] if self.device and self.device.type == "cuda" else None,
            # Running statistics are for later: rank 0's are saved, and nobody trains by them.
            forward_sync_buffers=False,
            # Else the gradients are packed again after the first step, and then three or more processes add them in
            # another order: a resumed training, which packs them after another step, would have other bits.
            find_unused_parameters=True,
        )

    def scale_loss(self, loss: Tensor, own: int, joined: int) -> Tensor:
        """A mean over `own` samples so scaled that its gradient's mean over the processes is that of the mean over the
        `joined` samples of the mini-batch, whatever their shares."""
        return loss if own * self.size == joined else loss * (own * self.size / joined)

    def all_reduce_sum(self, tensor: Tensor) -> None:
        """Put the sum over the processes in its place. Does not wait for a GPU. Collective."""
        if self.size > 1:
            dist.all_reduce(tensor)

    def largest(self, number: int) -> int:
        """Over the processes; returns when all have called it. Collective."""
        if self.size == 1:
            return number
        found = torch.tensor(number)
        dist.all_reduce(found, dist.ReduceOp.MAX, self.hosts)
        return int(found)


ALONE = Ranks()


@contextmanager
def joined(setting: Device) -> Iterator[Ranks]:
    """This process's part among those that torchrun started, while the block runs. Collective.

    By NCCL where each has a GPU of its own, by gloo on the CPU. Raises UserError where `setting` allows neither.
    """
    rank, size = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
    device, hosts = devices.choose(setting, rank, size), None
    if device.type == "cuda":
        dist.init_process_group("nccl", device_id=device)
        hosts = dist.new_group(backend="gloo")
    else:
        dist.init_process_group("gloo")
    yield Ranks(rank, size, device, hosts)  # type: ignore[arg-type]
    # Not after an error: another process may be gone, and then this would wait for it.
    dist.destroy_process_group()


def synchronise(model: nn.Module, device: torch.device) -> str:
    """Let `model` normalise by the mini-batch that all processes share, on GPUs by torch's own layer, which no CPU has.

    Says what it trains with now. Names, weights and evaluation stay as they are.
    """
    if device.type == "cpu":
        for module in model.modules():
            if type(module) is nn.BatchNorm2d:
                module.__class__ = CPUSyncBatchNorm2d  # it has the same state: only what forward does is another
    else:
        nn.SyncBatchNorm.convert_sync_batchnorm(model)  # type: ignore[no-untyped-call] # in place
    return "torch, batch normalisation synchronised"


class CPUSyncBatchNorm2d(nn.BatchNorm2d):
    """BatchNorm2d whose training statistics are those of all processes of torch.distributed's default group.

    One of torch's operations and one all-reduce of 2 C + 1 numbers in each direction. The processes' shares may differ
    in size. A gradient is that of the sum of all processes' losses; weight and bias get a process's own part of it,
    which is for DistributedDataParallel to add up.
    """

    def forward(self, x: Tensor) -> Tensor:
        if not self.training:
            return super().forward(x)
        assert self.num_batches_tracked is not None
        self.num_batches_tracked.add_(1)
        normalised: Tensor = _Normalise.apply(x, self.weight, self.bias, self)
        return normalised


class _Normalise(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor, bn: Any) -> Tensor:
        own_variance, own_mean = (m.double() for m in torch.var_mean(x.float(), (0, 2, 3), correction=0))
        own = x.numel() // x.shape[1]
        # In float64 the difference of two large numbers below keeps all digits that float32 has.
        sums = torch.cat([own_mean.new_full((1,), own), own * own_mean, own * (own_variance + own_mean.square())])
        if dist.is_initialized():
            dist.all_reduce(sums)
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
        dbias, dweight = dy.sum((0, 2, 3)), (dy * normalised).sum((0, 2, 3))
        sums = torch.stack([dbias, dweight]).double()
        if dist.is_initialized():
            dist.all_reduce(sums)
        of_bias, of_weight = (sums / n).float()
        dx = _wide(weight * scale) * (dy - _wide(of_bias) - normalised * _wide(of_weight))
        return dx.to(x.dtype), dweight, dbias, None


def _wide(per_channel: Tensor) -> Tensor:
    return per_channel.view(1, -1, 1, 1)
