"""What a network costs, layer by layer and in all, in closed form from widths and kernels: no module, no torch.

Counted are trainable parameters, and the multiply-adds of convolutions and of the final linear layer for one image.
"""

from dataclasses import dataclass

from pipeline.models.names import Network


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
    size, rows = image_size, dict[str, Layer]()
    for shape in network.layers():
        if shape.stride == 2 and "shortcut" not in shape.name:
            size = (size + 1) // 2
        weights = 2 * shape.outputs if shape.kernel is None else shape.kernel**2 * shape.inputs * shape.outputs
        kind, adds = ("bn", 0) if shape.kernel is None else ("conv", weights * size**2)
        layer = Layer(shape.name, kind, (shape.outputs, size, size), weights, adds)
        group, *inside = shape.name.split(".")
        if inside:
            for name, kind in ((group, "group"), (f"{group}.{inside[0]}", "block")):
                before = rows.get(name)
                counts = (before.parameters, before.multiply_adds) if before else (0, 0)
                rows[name] = Layer(name, kind, layer.output, counts[0] + weights, counts[1] + adds)
        rows[layer.name] = layer
        if shape.name == "bn1":
            size = (size + 1) // 2  # ImageNet's max pooling
    width = layer.output[0]
    return [*rows.values(), Layer("fc", "linear", (num_classes,), (width + 1) * num_classes, width * num_classes)]
