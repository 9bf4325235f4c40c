"""Weights in other people's layouts: torchvision's ResNets, and the dict of the authors' PyTorch release.

Each function maps one flat dict of tensors to another by renaming keys; tensors are passed on, not copied.
"""

import re
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from pipeline.errors import UserError
from pipeline.models.build import skeleton
from pipeline.models.names import Network

StateDict = dict[str, Tensor]


def to_torchvision(network: Network, state: Mapping[str, Tensor]) -> StateDict:
    """Our state dict in the layout of torchvision's resnet18 ... wide_resnet50_2 (ImageNet's post-activation networks).

    Raises UserError when the family has no such layout, or keys or shapes are not this network's.
    """
    _check_torchvision(network)
    checked = _checked(network, state, "this network's", lambda key: key)
    return {_torchvision_key(key): tensor for key, tensor in checked.items()}


def from_torchvision(network: Network, state: Mapping[str, Tensor]) -> StateDict:
    """A torchvision state dict in our layout; the inverse of `to_torchvision`, with the same errors."""
    _check_torchvision(network)
    return _checked(network, state, "torchvision's", _torchvision_key)


def to_authors(network: Network, state: Mapping[str, Tensor]) -> StateDict:
    """Our state dict in the layout of szagoruyko/wide-residual-networks, pytorch/resnet.py, for WRN-d-k with B(3,3).

    Parameters and running statistics share one dict: `group0.block0.conv0`, `group0.block0.bn0.running_mean`,
    `fc.weight`. It has no batch counts, so `num_batches_tracked` is left out (torch reads it for momentum None only).
    """
    _check_authors(network)
    checked = _checked(network, state, "this network's", lambda key: key)
    return {_authors_key(key): tensor for key, tensor in checked.items() if not _is_batch_count(key)}


def from_authors(network: Network, checkpoint: Mapping[str, Any]) -> StateDict:
    """The authors' dict in our layout, `num_batches_tracked` at 0.

    Also takes their whole checkpoint: `{"params": ...}`, or `{"params": ..., "stats": ...}` as before June 2018.
    Raises UserError when the network has no such layout, or keys or shapes are not this network's.
    """
    _check_authors(network)
    state = dict(checkpoint)
    if "params" in checkpoint:
        state = {**checkpoint["params"], **checkpoint.get("stats", {})}
    return _checked(network, state, "the authors'", lambda key: None if _is_batch_count(key) else _authors_key(key))


def _checked(
    network: Network, state: Mapping[str, Tensor], whose: str, rename: Callable[[str], str | None]
) -> StateDict:
    """`state` under our keys, after a comparison with the keys and shapes that `network` expects.

    `rename` gives the key in `state` of one of our keys, or None where `state` has none and zero stands for it.
    """
    fc = state.get("fc.bias")
    classes = fc.numel() if fc is not None else network.num_classes
    expected = skeleton(network, classes).state_dict()
    theirs = {key: rename(key) for key in expected}
    missing = [key for key in theirs.values() if key is not None and key not in state]
    unexpected = sorted(set(state) - {key for key in theirs.values() if key is not None})
    if missing or unexpected:
        found = [f"{_some(keys)} {word}" for word, keys in (("missing", missing), ("unexpected", unexpected)) if keys]
        raise UserError(
            f"weights for {network.name} in {whose} layout: {'; '.join(found)}",
            "check that the weights are this network's and that the layout is the one they were saved in",
        )
    result: StateDict = {}
    for key, blank in expected.items():
        source = theirs[key]
        tensor = torch.zeros(blank.shape, dtype=blank.dtype) if source is None else state[source]
        if tensor.shape != blank.shape:
            raise UserError(
                f"weights for {network.name}: {source} has shape {tuple(tensor.shape)}, expected {tuple(blank.shape)}",
                "check that the weights are of the same depth and widen factor",
            )
        result[key] = tensor
    return result


def _some(keys: list[str]) -> str:
    more = f" and {len(keys) - 3} more" if len(keys) > 3 else ""
    return ", ".join(keys[:3]) + more


def _is_batch_count(key: str) -> bool:
    return key.endswith(".num_batches_tracked")


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


def _check_torchvision(network: Network) -> None:
    if network.family not in ("imagenet-basic", "imagenet-bottleneck"):
        raise UserError(
            f"{network.name} has no torchvision layout",
            "torchvision's is for ImageNet's ResNet-50, WRN-50-2-bottleneck, WRN-18-1.0 and their like",
        )


def _check_authors(network: Network) -> None:
    if network.family != "wrn" or network.kernels != (3, 3):
        raise UserError(
            f"{network.name} has no layout in the authors' PyTorch release",
            "theirs is for WRN-d-k with B(3,3), such as WRN-28-10",
        )
