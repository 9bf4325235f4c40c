"""Weights in other people's layouts: torchvision's and timm's ResNets, and the dict of the authors' PyTorch release.

They have the same tensors under other names.
"""

import re
from collections.abc import Mapping
from typing import TYPE_CHECKING, Literal

from pipeline.errors import UserError
from pipeline.models.names import Network

if TYPE_CHECKING:  # the command line knows layouts without it
    from torch import Tensor

Layout = Literal["torchvision", "authors", "timm"]
"""torchvision, timm: the same names, of resnet18 ... wide_resnet50_2. authors: szagoruyko/wide-residual-networks,
pytorch/resnet.py, where parameters and running statistics share one dict: `group0.block0.conv0`, `fc.weight`."""


def in_layout(network: Network, state: "Mapping[str, Tensor]", layout: Layout) -> "dict[str, Tensor]":
    """A state dict of `network` in another layout. Raises UserError where that does not have such a network."""
    if layout == "authors":
        if network.family != "wrn" or network.kernels != (3, 3):
            raise UserError(
                f"{network.name} has no layout in the authors' PyTorch release",
                "theirs is for WRN-d-k with B(3,3), such as WRN-28-10",
            )
        # It has no batch counts: torch reads them for momentum None only.
        return {_authors_key(k): tensor for k, tensor in state.items() if not k.endswith(".num_batches_tracked")}
    if network.family not in ("imagenet-basic", "imagenet-bottleneck"):
        raise UserError(
            f"{network.name} has no {layout} layout",
            f"{layout}'s is for ImageNet's ResNet-50, WRN-50-2-bottleneck, WRN-18-1.0 and their like",
        )
    return {_torchvision_key(k): tensor for k, tensor in state.items()}


def _torchvision_key(key: str) -> str:
    key = re.sub(r"^group(\d+)\.block(\d+)\.", lambda m: f"layer{m[1]}.{int(m[2]) - 1}.", key)
    return key.replace(".shortcut_conv.", ".downsample.0.").replace(".shortcut_bn.", ".downsample.1.")


def _authors_key(key: str) -> str:
    """Theirs count from 0, and a convolution is its weight."""
    if not re.match(r"group|conv1", key):
        return key
    key = re.sub(r"(group|block|conv|bn)(\d+)", lambda m: f"{m[1]}{int(m[2]) - 1}", key).replace("shortcut", "convdim")
    return re.sub(r"((?:^|\.)conv\w+)\.weight$", r"\1", key)
