"""Networks by their names as the paper prints them, `WRN-28-10`, `WRN-40-2-B(3,1,3)`, `WRN-50-2-bottleneck`: of what
layers they are, and what these cost, without torch.

`parse` reads a name and `Network.name` prints it in one canonical form, so that two spellings of one network compare
equal: `parse("WRN-40-2") == parse("WRN-40-2-B(3,3)")`.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Literal

from pipeline.errors import UserError

Family = Literal["wrn", "preact-resnet", "imagenet-basic", "imagenet-bottleneck", "imagenet-preact"]

BLOCKS: dict[Family, dict[int, tuple[int, ...]]] = {
    "preact-resnet": {110: (18,) * 3, 164: (18,) * 3, 1001: (111,) * 3},
    "imagenet-basic": {18: (2, 2, 2, 2), 34: (3, 4, 6, 3)},
    "imagenet-bottleneck": {50: (3, 4, 6, 3), 101: (3, 4, 23, 3), 152: (3, 8, 36, 3)},
    "imagenet-preact": {200: (3, 24, 36, 3)},
}
"""Residual blocks in each group, by depth (He et al. 2015, Table 1; He et al. 2016, and its appendix for 200). A WRN's
follow from its depth."""

_WRN = re.compile(r"WRN-([1-9][0-9]*)-([0-9]+)(?:-B\(([^()]*)\))?(-dropout)?")
_IMAGENET = re.compile(r"WRN-([1-9][0-9]*)-(?:([0-9]+\.[0-9]+)|([0-9]+)-bottleneck)")
_RESNET = re.compile(r"(|pre-act-|pre-)ResNet-([1-9][0-9]*)")
_FORMS = "WRN-28-10, WRN-40-2-B(3,1,3), WRN-16-4-dropout; for ImageNet WRN-18-2.0, WRN-50-2-bottleneck, ResNet-50; "
_FORMS += "pre-act-ResNet-164, pre-ResNet-200"
_COCO = "WRN-34-2"
_DEEPEST, _WIDEST = 2000, 100
"""Layers and widen factor of a WRN, far above the paper's 52 and 12: WRN-1000000-1, a slip, was listed without end."""


@dataclass(frozen=True)
class Shape:
    """A convolution without bias, padded by half its kernel, or a batch normalisation."""

    name: str
    inputs: int
    outputs: int
    kernel: int | None = None
    """None of a batch normalisation."""
    stride: int = 1


@dataclass(frozen=True)
class Network:
    """One network of the paper. A depth or widen factor that its family does not have raises UserError."""

    family: Family
    """Whose blocks and stem: `wrn` and `preact-resnet` are CIFAR's, the others ImageNet's."""
    depth: int
    """Layers, as the name counts them."""
    widen_factor: int | float = 1
    """k of WRN-d-k; a float for ImageNet's WRN-18 and WRN-34 only; 1 for plain ResNets."""
    block: tuple[int, ...] = (3, 3)
    """Of a WRN: the kernel sizes of a block's convolutions in order, (3, 1, 3) for B(3,1,3)."""
    dropout: bool = False
    """Dropout between the convolutions of each block; its rate belongs to the protocol, not to the name."""

    def __post_init__(self) -> None:
        if self.family == "wrn":
            _check_wrn(self)
        elif self.depth not in (depths := BLOCKS[self.family]):
            what = f"{self.name}: depth {self.depth} is not one of {', '.join(map(str, depths))}"
            fix = "take one of these (ImageNet's ResNets have 18 and 34 too), or add it: docs/how-to/add-a-network.md"
            raise UserError(what, fix)
        elif self.widen_factor <= 0 or (64 * self.widen_factor) % 1:
            raise UserError(
                f"{self.name}: widen factor {self.widen_factor} times 64 channels is not a whole number from 1",
                "write WRN-18-1.5 or WRN-50-2-bottleneck, for example",
            )

    @property
    def name(self) -> str:
        """The canonical name; `parse(network.name) == network`."""
        wide = f"WRN-{self.depth}-{self.widen_factor}"
        if self.family == "wrn":
            # The bare WRN-34-2 is the paper's COCO detector, so CIFAR's net of that size has to spell its block.
            block = "" if self.block == (3, 3) and wide != _COCO else f"-B({','.join(map(str, self.block))})"
            return wide + block + ("-dropout" if self.dropout else "")
        if self.family == "imagenet-basic":
            return wide
        if self.widen_factor != 1:
            return f"{wide}-bottleneck"
        return {"preact-resnet": "pre-act-", "imagenet-preact": "pre-"}.get(self.family, "") + f"ResNet-{self.depth}"

    @property
    def is_imagenet(self) -> bool:
        """Whether it has ImageNet's stem of a 7x7 convolution and max pooling, each of stride 2."""
        return self.family.startswith("imagenet")

    @property
    def is_preactivation(self) -> bool:
        """Whether its blocks are BN-ReLU-conv (He et al. 2016), not conv-BN-ReLU."""
        return self.family in ("wrn", "preact-resnet", "imagenet-preact")

    @property
    def image_size(self) -> int:
        """Height and width in pixels of the images the network was published for."""
        return 224 if self.is_imagenet else 32

    @property
    def num_classes(self) -> int:
        """Classes of the family's first dataset: CIFAR-10's 10 or ImageNet's 1000."""
        return 1000 if self.is_imagenet else 10

    @property
    def kernels(self) -> tuple[int, ...]:
        """Kernel sizes of a block's convolutions in order."""
        if self.family == "wrn":
            return self.block
        return (3, 3) if self.family == "imagenet-basic" or self.depth == 110 else (1, 3, 1)

    @property
    def layers_per_block(self) -> int:
        """By how much a WRN's depth grows with one block in each of the three groups.

        Table 3 keeps the number of 3x3 convolutions of WRN-40-2 fixed, so its depth counts them; Table 2's parameter
        counts only come out when blocks with a 1x1 convolution are counted as two layers, whatever their length.
        """
        return 3 * len(self.block) if 1 not in self.block else 6

    @property
    def blocks_per_group(self) -> tuple[int, ...]:
        """Residual blocks in each group: three groups for CIFAR, four for ImageNet."""
        if self.family == "wrn":
            return ((self.depth - 4) // self.layers_per_block,) * 3
        return BLOCKS[self.family][self.depth]

    def layers(self) -> Iterator[Shape]:
        """All that have parameters but the final linear one, in the order of the state dict, by their dotted names.

        The stem is never widened: only so do Table 7's parameter counts come out. A WRN widens every convolution of a
        block alike, even next to 1x1 convolutions (Table 1, Table 2's counts), and so do ImageNet's basic blocks. The
        bottlenecks of He et al. are four times narrower inside, and only their inside is widened (WRN-50-2-bottleneck,
        Table 8), as in torchvision's wide_resnet50_2.
        """
        base = width = 64 if self.is_imagenet else 16
        if self.is_imagenet:
            yield Shape("conv1", 3, width, 7, 2)
            yield Shape("bn1", width, width)
        else:
            yield Shape("conv1", 3, width, 3)
        is_bottleneck = self.family != "wrn" and self.kernels == (1, 3, 1)
        for group, count in enumerate(self.blocks_per_group, start=1):
            inner = int(base * self.widen_factor)
            outer = 4 * base if is_bottleneck else inner
            for block in range(1, count + 1):
                widths = (width, *(inner,) * (len(self.kernels) - 1), outer)
                activates = not (self.is_imagenet and group == block == 1)
                for shape in self.block_layers(widths, 2 if group > 1 and block == 1 else 1, activates):
                    yield replace(shape, name=f"group{group}.block{block}.{shape.name}")
                width = outer
            base *= 2
        if self.is_preactivation:
            yield Shape("bn", width, width)

    def block_layers(self, widths: tuple[int, ...], stride: int = 1, activates_input: bool = True) -> list[Shape]:
        """Those of one residual block in the order of the state dict; `shortcut...` stand beside the others.

        `widths`: channels of the input, then of each convolution's output. `activates_input`: False for the first block
        of a pre-activation network whose stem already ends in BN-ReLU. The stride is the first convolution's in CIFAR's
        code, the first 3x3 one's in ImageNet's (fb.resnet.torch, torchvision).
        """
        shapes, strided = [], self.kernels.index(3) + 1 if self.is_imagenet else 1
        for i, (kernel, (inputs, outputs)) in enumerate(zip(self.kernels, pairwise(widths), strict=True), start=1):
            if self.is_preactivation and (i > 1 or activates_input):
                shapes.append(Shape(f"bn{i}", inputs, inputs))
            shapes.append(Shape(f"conv{i}", inputs, outputs, kernel, stride if i == strided else 1))
            if not self.is_preactivation:
                shapes.append(Shape(f"bn{i}", outputs, outputs))
        if stride > 1 or widths[0] != widths[-1]:
            name = "shortcut" if self.is_preactivation else "shortcut_conv"
            shapes.append(Shape(name, widths[0], widths[-1], 1, stride))
            if not self.is_preactivation:
                shapes.append(Shape("shortcut_bn", widths[-1], widths[-1]))
        return shapes


def parse(name: str) -> Network:
    """Read a network's printed name. Raises UserError that says what is wrong with it and what to write."""
    if name == _COCO:
        raise UserError(
            f"{name} is the paper's COCO detector (MultiPathNet); only its classification backbone exists here",
            "use WRN-34-2.0 for the ImageNet backbone, or WRN-34-2-B(3,3) for a CIFAR network of that size",
        )
    basic = BLOCKS["imagenet-basic"]
    if match := _WRN.fullmatch(name):
        depth, widen, block = int(match[1]), int(match[2]), match[3]
        if block is not None and not re.fullmatch("(?=.*3)[13](,[13])*", block):
            raise UserError(
                f"{name}: unknown block B({block})",
                "list kernel sizes 1 and 3, with at least one 3, without spaces, as in B(3,1,3)",
            )
        if depth > _DEEPEST or widen > _WIDEST:
            what = f"{name}: deeper than {_DEEPEST} layers or wider than {_WIDEST} times"
            raise UserError(what, "write WRN-28-10, for example")
        return Network("wrn", depth, widen, tuple(map(int, (block or "3,3").split(","))), match[4] is not None)
    if match := _IMAGENET.fullmatch(name):
        if match[3]:
            return Network("imagenet-bottleneck", int(match[1]), int(match[3]))
        if int(match[1]) in basic:
            return Network("imagenet-basic", int(match[1]), float(match[2]))
    if match := _RESNET.fullmatch(name):
        depth = int(match[2])
        if match[1]:
            return Network("preact-resnet" if match[1] == "pre-act-" else "imagenet-preact", depth)
        return Network("imagenet-basic", depth, 1.0) if depth in basic else Network("imagenet-bottleneck", depth)
    raise UserError(f"unknown network {name!r}", f"{_spelling(name)}names are written like {_FORMS}")


def _spelling(name: str) -> str:
    """Asks for the canonical spelling, where only that was missed."""
    tidy = re.sub(r"\s", "", name.replace("_", "-")).lower()
    for typed, printed in (("wide-resnet", "wrn"), ("wrn", "WRN"), ("resnet", "ResNet"), ("b(", "B(")):
        tidy = tidy.replace(typed, printed)
    if tidy == name:
        return ""
    try:
        return f"did you mean {parse(tidy).name}? "
    except UserError:
        return ""


def _check_wrn(network: Network) -> None:
    depth, widen = network.depth, network.widen_factor
    if network.dropout and len(network.block) < 2:
        raise UserError(
            f"{network.name}: dropout stands between a block's convolutions, and B(3) has only one",
            "leave -dropout out, or take a block of two or more convolutions such as B(3,3)",
        )
    if widen < 1:
        raise UserError(f"{network.name}: widen factor {widen} is not a whole number from 1", "write WRN-28-10, say")
    step = network.layers_per_block
    if depth >= 4 + step and (depth - 4) % step == 0:
        return
    below = max(1, (depth - 4) // step)
    write = " or ".join(replace(network, depth=4 + step * blocks).name for blocks in (below, below + 1))
    if network.block == (3, 3) and not network.dropout:
        for depths, ending in ((BLOCKS["imagenet-basic"], ".0"), (BLOCKS["imagenet-bottleneck"], "-bottleneck")):
            if depth in depths:
                write = f"WRN-{depth}-{widen}{ending} for ImageNet, or for CIFAR {write}"
    raise UserError(f"{network.name}: depth {depth} is not {step}N+4 with N from 1", f"write {write}")


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
    return sum(layer.parameters for layer in costs(network, network.image_size, num_classes) if "." not in layer.name)


def multiply_adds(network: Network, image_size: int, num_classes: int) -> int:
    """Of convolutions and head, for one forward pass of one image of `image_size` x `image_size` pixels (from 1)."""
    return sum(layer.multiply_adds for layer in costs(network, image_size, num_classes) if "." not in layer.name)


def costs(network: Network, image_size: int, num_classes: int) -> list[Layer]:
    """Of every layer, block and group in order, a container before what it contains.

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
