"""The processes that train one network together, each with its share of every mini-batch: ranks, as torchrun counts."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
import torch.distributed as dist
from torch import nn
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

    def scale_loss(self, loss: torch.Tensor, own: int, joined: int) -> torch.Tensor:
        """A mean over `own` samples so scaled that its gradient's mean over the processes is that of the mean over the
        `joined` samples of the mini-batch, whatever their shares."""
        return loss if own * self.size == joined else loss * (own * self.size / joined)

    def all_reduce_sum(self, tensor: torch.Tensor) -> None:
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
    device = devices.choose(setting, rank, size)
    hosts = None
    if device.type == "cuda":
        dist.init_process_group("nccl", device_id=device)
        hosts = dist.new_group(backend="gloo")
    else:
        dist.init_process_group("gloo")
    yield Ranks(rank, size, device, hosts)  # type: ignore[arg-type]
    # Not after an error: another process may be gone, and then this would wait for it.
    dist.destroy_process_group()
