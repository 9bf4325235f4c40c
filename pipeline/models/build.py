"""A network from its printed name, initialised as the paper's code did, from one seed."""

import math

import torch
from torch import nn

from pipeline.errors import UserError
from pipeline.models.names import Network, parse
from pipeline.models.resnet import ResNet
from pipeline.params import BnInit, ConvInit


def build(
    name: str, num_classes: int, *, conv_init: ConvInit, bn_init: BnInit, dropout: float = 0.0, seed: int
) -> nn.Module:
    """Build the network that `name` prints, on the CPU, in float32 and training mode.

    `conv_init`: He normal by inputs (authors' code from September 2016: Tables 5, 6, 9) or by outputs (before it:
    Tables 2-4; also the public ImageNet recipe). `bn_init`: BN weights U(0, 1), Torch7's default, or 1. `dropout`:
    probability of zeroing, for names that end in `-dropout`, which need one. The same arguments give the same bits;
    torch's global random state is neither read nor moved.

    Raises UserError for a bad name or dropout rate.
    """
    network = parse(name)
    if network.dropout and not 0.0 < dropout < 1.0:
        raise UserError(
            f"{network.name}: dropout rate {dropout} is not between 0 and 1",
            "set the protocol's dropout, 0.3 on CIFAR and 0.4 on SVHN in the paper (Table 6)",
        )
    module = skeleton(network, num_classes, dropout=dropout).to_empty(device="cpu")
    initialise(module, conv_init=conv_init, bn_init=bn_init, seed=seed)
    return module


def skeleton(network: Network, num_classes: int, *, dropout: float = 0.0) -> nn.Module:
    """The network on torch's meta device: shapes without memory or values, however large it is."""
    with torch.device("meta"):
        return ResNet(network, num_classes, dropout if network.dropout else 0.0)


def initialise(module: nn.Module, *, conv_init: ConvInit, bn_init: BnInit, seed: int) -> None:
    """Set every parameter and buffer of `module` (CPU), in module order, from one generator seeded with `seed`.

    Convolutions: normal, std sqrt(2 / (k*k*channels)), and bias 0 where they have one. FC: weight U(-1/sqrt(inputs),
    1/sqrt(inputs)), Torch7's default that the authors' Lua code left in place, and bias 0. BN: bias 0, running mean 0
    and variance 1. Raises TypeError for another kind of layer with parameters: they would stay what lay in memory.
    """
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for layer in module.modules():
            if isinstance(layer, nn.Conv2d):
                channels = layer.in_channels if conv_init == "fan_in" else layer.out_channels
                fan = channels * layer.kernel_size[0] * layer.kernel_size[1]
                layer.weight.normal_(0.0, math.sqrt(2.0 / fan), generator=generator)
                if layer.bias is not None:
                    layer.bias.zero_()
            elif isinstance(layer, nn.BatchNorm2d):
                layer.reset_running_stats()
                layer.bias.zero_()
                if bn_init == "uniform":
                    layer.weight.uniform_(0.0, 1.0, generator=generator)
                else:
                    layer.weight.fill_(1.0)
            elif isinstance(layer, nn.Linear):
                bound = 1.0 / math.sqrt(layer.in_features)
                layer.weight.uniform_(-bound, bound, generator=generator)
                layer.bias.zero_()
            elif [*layer.parameters(recurse=False), *layer.buffers(recurse=False)]:
                raise TypeError(f"nothing sets the parameters of a {type(layer).__name__}: pipeline/models/build.py")
