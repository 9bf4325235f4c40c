"""What a network costs: parameters and multiply-adds, layer by layer, without allocating it.

Counted are the multiply-adds of convolutions and of the final linear layer for one image; batch norm, ReLU, pooling and
the additions of shortcuts and biases are not, as is usual.
"""

from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor, nn

from pipeline.errors import UserError
from pipeline.models import imagenet_resnet, preact_resnet
from pipeline.models.build import skeleton
from pipeline.models.names import Network, parse


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


def count_parameters(module: nn.Module) -> int:
    """Number of trainable parameters (running statistics are not parameters)."""
    return sum(parameter.numel() for parameter in module.parameters() if parameter.requires_grad)


def parameters_of(name: str, num_classes: int) -> int:
    """Trainable parameters of the network that `name` prints, without allocating it."""
    return count_parameters(skeleton(parse(name), num_classes))


def multiply_adds(network: Network, image_size: int | None = None, num_classes: int | None = None) -> int:
    """Multiply-adds of one forward pass of one image of `image_size` x `image_size` pixels (default: as published)."""
    return sum(layer.multiply_adds for layer in layers(network, image_size, num_classes) if "." not in layer.name)


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


def parameter_formula(network: Network, num_classes: int) -> int:
    """The trainable parameters in closed form, from widths and kernels without any module: a check on the modules."""
    preact = network.family in ("wrn", "preact-resnet", "imagenet-preact")
    imagenet = network.family.startswith("imagenet")
    widths = preact_resnet.group_widths if preact else imagenet_resnet.group_widths
    width = 64 if imagenet else 16
    total = 3 * width * (49 if imagenet else 9) + (2 * width if imagenet else 0)
    for group, blocks in enumerate(network.blocks_per_group, start=1):
        inner, outer = widths(network, group)
        for block in range(blocks):
            path = [width] + [inner] * (len(network.kernels) - 1) + [outer]
            total += sum(k * k * i * o for k, (i, o) in zip(network.kernels, pairwise(path), strict=True))
            total += 2 * sum(path[:-1] if preact else path[1:])
            if width != outer or (group > 1 and block == 0):
                total += width * outer + (0 if preact else 2 * outer)
            width = outer
    if network.family == "imagenet-preact":
        total -= 2 * 64  # The first block has no BN of its own: the stem ends in one.
    return total + (2 * width if preact else 0) + (width + 1) * num_classes


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
