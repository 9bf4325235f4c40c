"""What a network costs, layer by layer, from its modules without allocating them.

Counted are the multiply-adds of convolutions and of the final linear layer for one image; batch norm, ReLU, pooling and
the additions of shortcuts and biases are not, as is usual. The totals alone are in param_count.py, without torch.
"""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from pipeline.errors import UserError
from pipeline.models import imagenet_resnet, preact_resnet
from pipeline.models.build import count_parameters, skeleton
from pipeline.models.names import Network


@dataclass(frozen=True)
class Layer:
    """One row of a network's description."""

    name: str
    """Dotted module name, as in the state dict: `group1.block1.conv1`."""
    kind: str
    """`conv`, `bn`, `linear`, `dropout`, `block` or `group`; the last two hold the layers named after them."""
    output: tuple[int, ...]
    """Output size without the batch: (channels, height, width), or (classes,)."""
    parameters: int
    """Trainable parameters, those of all layers inside included."""
    multiply_adds: int
    """Multiply-adds for one image, those of all layers inside included."""


def layers(network: Network, image_size: int | None = None, num_classes: int | None = None) -> list[Layer]:
    """Every layer, block and group of the network in order, a container before what it contains.

    The rows whose names hold no dot add up to the whole network. Defaults: the published image size and class count.
    Raises UserError for an image size or class count below 1.
    """
    size = network.image_size if image_size is None else image_size
    if size < 1:
        raise UserError(f"{network.name}: images of {size} pixels", f"give a size from 1, such as {network.image_size}")
    module = skeleton(network, network.num_classes if num_classes is None else num_classes).eval()
    named = [(name, layer, kind) for name, layer in module.named_modules() if (kind := _kind(layer))]
    outputs = _output_sizes(module, [layer for _, layer, _ in named], size)
    return [
        Layer(name, kind, outputs[layer], count_parameters(layer), _multiply_adds(layer, outputs))
        for name, layer, kind in named
    ]


def _kind(layer: nn.Module) -> str | None:
    for kinds, kind in (
        (nn.Conv2d, "conv"),
        (nn.BatchNorm2d, "bn"),
        (nn.Linear, "linear"),
        (nn.Dropout, "dropout"),
        (nn.Sequential, "group"),
        ((preact_resnet.PreActBlock, imagenet_resnet.PostActBlock), "block"),
    ):
        if isinstance(layer, kinds):
            return kind
    return None


def _output_sizes(module: nn.Module, observed: list[nn.Module], size: int) -> dict[nn.Module, tuple[int, ...]]:
    sizes: dict[nn.Module, tuple[int, ...]] = {}

    def observe(layer: nn.Module, _: tuple[Tensor, ...], output: Tensor) -> None:
        sizes[layer] = tuple(output.shape[1:])

    handles = [layer.register_forward_hook(observe) for layer in observed]
    with torch.no_grad():
        module(torch.empty(1, 3, size, size, device="meta"))
    for handle in handles:
        handle.remove()
    return sizes


def _multiply_adds(layer: nn.Module, outputs: dict[nn.Module, tuple[int, ...]]) -> int:
    total = 0
    for part in layer.modules():
        if isinstance(part, nn.Conv2d):
            _, height, width = outputs[part]
            total += part.weight.numel() * height * width
        elif isinstance(part, nn.Linear):
            total += part.weight.numel()
    return total
