"""Parameters and multiply-adds in closed form, from widths and kernels alone: no module, no torch.

Counted as in pipeline/models/model_summary.py, whose modules tests/models/test_param_count.py holds against this.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise

from pipeline.models.names import Network


@dataclass(frozen=True)
class _Convolution:
    kernel: int
    inputs: int
    outputs: int
    size: int
    """Height and width of its output."""
    in_path: bool = False
    """Whether it is one of a block's convolutions in a row, as stem and shortcuts are not."""

    @property
    def weights(self) -> int:
        return self.kernel**2 * self.inputs * self.outputs


def parameters(network: Network, num_classes: int) -> int:
    """Trainable parameters with a head for `num_classes` classes (from 1)."""
    convolutions = list(_convolutions(network, network.image_size))
    width = network.group_widths[-1][1]
    if network.is_preactivation:
        # One batch norm before each convolution in a path, and a last one. ImageNet's first block has its own in the
        # stem, of the same width.
        normalised = sum(conv.inputs for conv in convolutions if conv.in_path) + width
    else:
        normalised = sum(conv.outputs for conv in convolutions)
    return sum(conv.weights for conv in convolutions) + 2 * normalised + (width + 1) * num_classes


def multiply_adds(network: Network, image_size: int, num_classes: int) -> int:
    """Of convolutions and head, for one forward pass of one image of `image_size` x `image_size` pixels (from 1)."""
    head = network.group_widths[-1][1] * num_classes
    return sum(conv.weights * conv.size**2 for conv in _convolutions(network, image_size)) + head


def _convolutions(network: Network, size: int) -> Iterator[_Convolution]:
    """Every convolution for images of `size` pixels. Each stride of 2 halves a size and rounds up."""
    if network.is_imagenet:
        size = _half(size)
        yield _Convolution(7, 3, network.stem_width, size)
        size = _half(size)  # max pooling
    else:
        yield _Convolution(3, 3, network.stem_width, size)
    # The stride of a group's first block is its first 3x3's for ImageNet, its first convolution's for CIFAR.
    strided = network.kernels.index(3) if network.is_imagenet else 0
    width = network.stem_width
    for group, blocks in enumerate(network.blocks_per_group):
        inner, outer = network.group_widths[group]
        for block in range(blocks):
            halves = group > 0 and block == 0
            output = _half(size) if halves else size
            path = pairwise((width, *(inner,) * (len(network.kernels) - 1), outer))
            for i, (kernel, (inputs, outputs)) in enumerate(zip(network.kernels, path, strict=True)):
                at = output if i >= strided else size
                yield _Convolution(kernel, inputs, outputs, at, in_path=True)
            if width != outer:  # each group doubles the width, so a stride is never without it
                yield _Convolution(1, width, outer, output)
            width, size = outer, output


def _half(size: int) -> int:
    return (size + 1) // 2
