"""Weights in other people's layouts: torchvision's and timm's ResNets, and the dict of the authors' PyTorch release.

They have the same tensors under other names.
"""

import re
from collections.abc import Callable, Mapping
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
        return _renamed({k: v for k, v in state.items() if not k.endswith(".num_batches_tracked")}, _authors_key)
    if network.family not in ("imagenet-basic", "imagenet-bottleneck"):
        raise UserError(
            f"{network.name} has no {layout} layout",
            f"{layout}'s is for ImageNet's ResNet-50, WRN-50-2-bottleneck, WRN-18-1.0 and their like",
        )
    return _renamed(state, _torchvision_key)


def _renamed(state: "Mapping[str, Tensor]", rename: Callable[[str], str]) -> "dict[str, Tensor]":
    return {rename(key): tensor for key, tensor in state.items()}


def _torchvision_key(key: str) -> str:
    key = re.sub(r"^group(\d+)\.block(\d+)\.", lambda m: f"layer{m[1]}.{int(m[2]) - 1}.", key)
    return key.replace(".shortcut_conv.", ".downsample.0.").replace(".shortcut_bn.", ".downsample.1.")


def _authors_key(key: str) -> str:
    if key == "conv1.weight":
        return "conv0"
    match = re.match(r"group(\d+)\.block(\d+)\.(.*)$", key)
    if match is None:
        return key
    layer = re.sub(r"^(conv|bn)(\d+)", lambda m: f"{m[1]}{int(m[2]) - 1}", match[3].replace("shortcut", "convdim"))
    if layer.startswith("conv"):
        layer = layer.removesuffix(".weight")
    return f"group{int(match[1]) - 1}.block{int(match[2]) - 1}.{layer}"
