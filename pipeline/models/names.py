"""Network names as the paper prints them, and what they mean: `WRN-28-10`, `WRN-40-2-B(3,1,3)`, `WRN-50-2-bottleneck`.

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
class Block:
    """One residual block of a network."""

    network: "Network"
    name: str
    """block1, block2, ... of its group."""
    widths: tuple[int, ...]
    """Channels of the input, then of each convolution's output."""
    stride: int
    activates_input: bool
    """False for the first block of a pre-activation network whose stem already ends in BN-ReLU."""

    @property
    def keeps_shape(self) -> bool:
        """So that its shortcut is the identity."""
        return self.widths[0] == self.widths[-1] and self.stride == 1

    def layers(self) -> Iterator[Shape]:
        """Its layers in the order of the state dict; those named `shortcut...` stand beside the others."""
        first, last, preactivation = self.widths[0], self.widths[-1], self.network.is_preactivation
        of_each = zip(self.network.kernels, pairwise(self.widths), strict=True)
        for i, (kernel, (inputs, outputs)) in enumerate(of_each, start=1):
            if preactivation and (i > 1 or self.activates_input):
                yield Shape(f"bn{i}", inputs, inputs)
            yield Shape(f"conv{i}", inputs, outputs, kernel, self.stride if i == self.network.strided else 1)
            if not preactivation:
                yield Shape(f"bn{i}", outputs, outputs)
        if not self.keeps_shape:
            yield Shape("shortcut" if preactivation else "shortcut_conv", first, last, 1, self.stride)
            if not preactivation:
                yield Shape("shortcut_bn", last, last)


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
            return
        if self.depth not in (depths := BLOCKS[self.family]):
            nearest = min(depths, key=lambda depth: abs(depth - self.depth))
            raise UserError(
                f"{self.name}: depth {self.depth} is not one of {', '.join(map(str, depths))}",
                f"write {self.name.replace(f'-{self.depth}', f'-{nearest}', 1)}",
            )
        if self.widen_factor <= 0 or (64 * self.widen_factor) % 1:
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
    def kernels(self) -> tuple[int, ...]:
        """Kernel sizes of a block's convolutions in order."""
        if self.family == "wrn":
            return self.block
        return (3, 3) if self.family == "imagenet-basic" or self.depth == 110 else (1, 3, 1)

    @property
    def blocks_per_group(self) -> tuple[int, ...]:
        """Residual blocks in each group: three groups for CIFAR, four for ImageNet."""
        if self.family == "wrn":
            return ((self.depth - 4) // _layers_per_block(self.block),) * 3
        return BLOCKS[self.family][self.depth]

    @property
    def is_imagenet(self) -> bool:
        """Whether it has ImageNet's stem of a 7x7 convolution and max pooling, each of stride 2."""
        return self.family.startswith("imagenet")

    @property
    def is_preactivation(self) -> bool:
        """Whether its blocks are BN-ReLU-conv (He et al. 2016), not conv-BN-ReLU."""
        return self.family in ("wrn", "preact-resnet", "imagenet-preact")

    @property
    def stem_width(self) -> int:
        """Channels of the first convolution. Never widened: only so do Table 7's parameter counts come out."""
        return 64 if self.is_imagenet else 16

    @property
    def group_widths(self) -> tuple[tuple[int, int], ...]:
        """(inner, outer) channels of each group's blocks.

        A WRN widens every convolution of a block alike, even next to 1x1 convolutions (Table 1, Table 2's counts), and
        so do ImageNet's basic blocks. The bottlenecks of He et al. are four times narrower inside, and only their
        inside is widened (WRN-50-2-bottleneck, Table 8), as in torchvision's wide_resnet50_2.
        """
        bases = [self.stem_width * 2**group for group in range(len(self.blocks_per_group))]
        inner = [int(base * self.widen_factor) for base in bases]
        bottleneck = self.family != "wrn" and self.kernels == (1, 3, 1)
        return tuple(zip(inner, [4 * base for base in bases] if bottleneck else inner, strict=True))

    @property
    def strided(self) -> int:
        """Which of a block's convolutions, from 1, has the stride: the first in CIFAR's code, the first 3x3 in
        ImageNet's (fb.resnet.torch, torchvision)."""
        return self.kernels.index(3) + 1 if self.is_imagenet else 1

    def stem(self) -> list[Shape]:
        """The layers before the first group, but for ImageNet's max pooling."""
        width = self.stem_width
        if self.is_imagenet:
            return [Shape("conv1", 3, width, 7, 2), Shape("bn1", width, width)]
        return [Shape("conv1", 3, width, 3)]

    def groups(self) -> Iterator[list[Block]]:
        """The blocks of each group in order."""
        width = self.stem_width
        for group, (count, (inner, outer)) in enumerate(zip(self.blocks_per_group, self.group_widths, strict=True)):
            blocks = []
            for block in range(count):
                widths = (width, *(inner,) * (len(self.kernels) - 1), outer)
                stride = 2 if group > 0 and block == 0 else 1
                activates = not (self.is_imagenet and group == block == 0)
                blocks.append(Block(self, f"block{block + 1}", widths, stride, activates))
                width = outer
            yield blocks

    @property
    def image_size(self) -> int:
        """Height and width in pixels of the images the network was published for."""
        return 224 if self.is_imagenet else 32

    @property
    def num_classes(self) -> int:
        """Classes of the family's first dataset: CIFAR-10's 10 or ImageNet's 1000."""
        return 1000 if self.is_imagenet else 10


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


def _layers_per_block(kernels: tuple[int, ...]) -> int:
    """By how much depth grows with one block in each of the three groups.

    Table 3 keeps the number of 3x3 convolutions of WRN-40-2 fixed, so its depth counts them; Table 2's parameter counts
    only come out when blocks with a 1x1 convolution are counted as two layers, whatever their length.
    """
    return 3 * len(kernels) if 1 not in kernels else 6


def _check_wrn(network: Network) -> None:
    depth, widen = network.depth, network.widen_factor
    if network.dropout and len(network.block) < 2:
        raise UserError(
            f"{network.name}: dropout stands between a block's convolutions, and B(3) has only one",
            "leave -dropout out, or take a block of two or more convolutions such as B(3,3)",
        )
    if widen < 1:
        raise UserError(f"{network.name}: widen factor {widen} is not a whole number from 1", "write WRN-28-10, say")
    step = _layers_per_block(network.block)
    if depth >= 4 + step and (depth - 4) % step == 0:
        return
    below = max(1, (depth - 4) // step)
    write = " or ".join(replace(network, depth=4 + step * blocks).name for blocks in (below, below + 1))
    if network.block == (3, 3) and not network.dropout:
        for depths, ending in ((BLOCKS["imagenet-basic"], ".0"), (BLOCKS["imagenet-bottleneck"], "-bottleneck")):
            if depth in depths:
                write = f"WRN-{depth}-{widen}{ending} for ImageNet, or for CIFAR {write}"
    raise UserError(f"{network.name}: depth {depth} is not {step}N+4 with N from 1", f"write {write}")
