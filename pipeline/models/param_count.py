"""What a network costs, layer by layer and in all, in closed form from widths and kernels: no module, no torch.

Counted are trainable parameters, and the multiply-adds of convolutions and of the final linear layer for one image, as
is usual. tests/models/test_param_count.py holds all of it against the modules.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

from pipeline.models.names import Network, Shape


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
    size, width = image_size, network.group_widths[-1][1]
    if network.is_imagenet:
        size = _half(size)
    result = [_row(shape, size) for shape in network.stem()]
    if network.is_imagenet:
        size = _half(size)  # max pooling
    for group, blocks in enumerate(network.groups(), start=1):
        inside: list[Layer] = []
        for block in blocks:
            parts = []
            for shape in block.layers():
                if shape.stride == 2 and not shape.name.startswith("shortcut"):
                    size = _half(size)
                parts.append(_row(replace(shape, name=f"group{group}.{block.name}.{shape.name}"), size))
            inside += [_container(f"group{group}.{block.name}", "block", parts), *parts]
        result += [_container(f"group{group}", "group", [row for row in inside if row.kind == "block"]), *inside]
    if network.is_preactivation:
        result.append(_row(Shape("bn", width, width), size))
    return [*result, Layer("fc", "linear", (num_classes,), (width + 1) * num_classes, width * num_classes)]


def _row(shape: Shape, size: int) -> Layer:
    """Of a layer whose output has `size` x `size` pixels."""
    output = (shape.outputs, size, size)
    if shape.kernel is None:
        return Layer(shape.name, "bn", output, 2 * shape.outputs, 0)
    weights = shape.kernel**2 * shape.inputs * shape.outputs
    return Layer(shape.name, "conv", output, weights, weights * size**2)


def _container(name: str, kind: str, parts: Sequence[Layer]) -> Layer:
    counts = sum(part.parameters for part in parts), sum(part.multiply_adds for part in parts)
    return Layer(name, kind, parts[-1].output, *counts)


def _half(size: int) -> int:
    return (size + 1) // 2
