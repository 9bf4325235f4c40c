"""What a network costs, layer by layer and in all, in closed form from widths and kernels: no module, no torch.

Counted are trainable parameters, and the multiply-adds of convolutions and of the final linear layer for one image, as
is usual. tests/models/test_param_count.py holds all of it against the modules.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

from pipeline.models.names import Block, Network


@dataclass(frozen=True)
class Layer:
    """One row of a network's description."""

    name: str
    """Dotted module name, as in the state dict: `group1.block1.conv1`."""
    kind: str
    """`conv`, `bn`, `linear`, `block` or `group`; the last two hold the layers named after them."""
    output: tuple[int, ...]
    """Output size without the batch: (channels, height, width), or (classes,)."""
    parameters: int
    """Trainable parameters, those of all layers inside included."""
    multiply_adds: int
    """Multiply-adds for one image, those of all layers inside included."""


def parameters(network: Network, num_classes: int) -> int:
    """Trainable parameters with a head for `num_classes` classes (from 1)."""
    return sum(layer.parameters for layer in layers(network, network.image_size, num_classes) if "." not in layer.name)


def multiply_adds(network: Network, image_size: int, num_classes: int) -> int:
    """Of convolutions and head, for one forward pass of one image of `image_size` x `image_size` pixels (from 1)."""
    return sum(layer.multiply_adds for layer in layers(network, image_size, num_classes) if "." not in layer.name)


def layers(network: Network, image_size: int, num_classes: int) -> list[Layer]:
    """Every layer, block and group in order, a container before what it contains.

    The rows whose names hold no dot add up to the whole network. Each stride of 2 halves a size and rounds up.
    """
    width, size = network.stem_width, image_size
    if network.is_imagenet:
        size = _half(size)
        result = [_conv("conv1", 7, 3, width, size), _bn("bn1", width, size)]
        size = _half(size)  # max pooling
    else:
        result = [_conv("conv1", 3, 3, width, size)]
    for group, blocks in enumerate(network.groups(), start=1):
        inside: list[Layer] = []
        for block in blocks:
            parts = _block(network, block, f"group{group}.{block.name}", size)
            inside += [_container(f"group{group}.{block.name}", "block", parts), *parts]
            size, width = parts[-1].output[-1], block.widths[-1]
        whole = [layer for layer in inside if layer.kind == "block"]
        result += [_container(f"group{group}", "group", whole), *inside]
    if network.is_preactivation:
        result.append(_bn("bn", width, size))
    return [*result, Layer("fc", "linear", (num_classes,), (width + 1) * num_classes, width * num_classes)]


def _block(network: Network, block: Block, name: str, size: int) -> list[Layer]:
    """A block's layers in order, for an input of `size` pixels."""
    result: list[Layer] = []
    output = _half(size) if block.stride == 2 else size
    for i, (kernel, (inputs, outputs)) in enumerate(zip(network.kernels, pairwise(block.widths), strict=True), start=1):
        before, after = (output if n >= network.strided else size for n in (i - 1, i))
        conv = _conv(f"{name}.conv{i}", kernel, inputs, outputs, after)
        if not network.is_preactivation:
            result += [conv, _bn(f"{name}.bn{i}", outputs, after)]
        elif i == 1 and not block.activates_input:
            result.append(conv)
        else:
            result += [_bn(f"{name}.bn{i}", inputs, before), conv]
    if block.widths[0] != block.widths[-1]:  # each group doubles the width, so a stride is never without it
        shortcut = f"{name}.shortcut" if network.is_preactivation else f"{name}.shortcut_conv"
        result.append(_conv(shortcut, 1, block.widths[0], block.widths[-1], output))
        if not network.is_preactivation:
            result.append(_bn(f"{name}.shortcut_bn", block.widths[-1], output))
    return result


def _conv(name: str, kernel: int, inputs: int, outputs: int, size: int) -> Layer:
    weights = kernel**2 * inputs * outputs
    return Layer(name, "conv", (outputs, size, size), weights, weights * size**2)


def _bn(name: str, channels: int, size: int) -> Layer:
    return Layer(name, "bn", (channels, size, size), 2 * channels, 0)


def _container(name: str, kind: str, parts: Sequence[Layer]) -> Layer:
    counts = sum(part.parameters for part in parts), sum(part.multiply_adds for part in parts)
    return Layer(name, kind, parts[-1].output, *counts)


def _half(size: int) -> int:
    return (size + 1) // 2
