"""Network names as the paper prints them, and what they mean: `WRN-28-10`, `WRN-40-2-B(3,1,3)`, `WRN-50-2-bottleneck`.

`parse` reads a name and `Network.name` prints it in one canonical form, so that two spellings of one network compare
equal: `parse("WRN-40-2") == parse("WRN-40-2-B(3,3)")`.
"""

import difflib
import re
from dataclasses import dataclass
from typing import Literal

from pipeline.errors import UserError

Family = Literal["wrn", "preact-resnet", "imagenet-basic", "imagenet-bottleneck", "imagenet-preact"]

IMAGENET_BLOCKS: dict[Family, dict[int, tuple[int, ...]]] = {
    "imagenet-basic": {18: (2, 2, 2, 2), 34: (3, 4, 6, 3)},
    "imagenet-bottleneck": {50: (3, 4, 6, 3), 101: (3, 4, 23, 3), 152: (3, 8, 36, 3)},
    "imagenet-preact": {200: (3, 24, 36, 3)},
}
"""Residual blocks in each of the four groups, by depth (He et al. 2015, Table 1; He et al. 2016, appendix, for 200)."""

PREACT_KERNELS: dict[int, tuple[int, ...]] = {110: (3, 3), 164: (1, 3, 1), 1001: (1, 3, 1)}
"""Kernels of the thin pre-activation ResNets for CIFAR. 110 is also 9n+2, so depth does not tell the block."""

_WRN = re.compile(
    r"WRN-(?P<depth>[1-9][0-9]*)-(?P<widen>[0-9]+(?:\.[0-9]+)?)"
    r"(?P<bottleneck>-bottleneck)?(?P<block>-B\([^()]*\))?(?P<dropout>-dropout)?"
)
_RESNET = re.compile(r"(?P<prefix>|pre-act-|pre-)ResNet-(?P<depth>[1-9][0-9]*)")
_QUOTED = re.compile(r"NIN|DSN|FitNet|Highway|ELU|(original-ResNet|stoc-depth)-[0-9]+")
_COCO = "WRN-34-2"
_DEEPEST, _WIDEST = 2000, 100
"""Layers and widen factor of a WRN, far above the paper's 52 and 12: WRN-1000000-1, a slip, was listed without end."""


@dataclass(frozen=True)
class Network:
    """One network of the paper. A depth or widen factor that its family does not have raises UserError."""

    family: Family
    """Whose blocks and stem: `wrn` and `preact-resnet` are CIFAR's, the others ImageNet's."""
    depth: int
    """Layers, as the name counts them."""
    widen_factor: int | float
    """k of WRN-d-k; a float for ImageNet's WRN-18 and WRN-34 only; 1 for plain ResNets."""
    kernels: tuple[int, ...] = (3, 3)
    """Kernel sizes of a block's convolutions in order: (3, 1, 3) for B(3,1,3)."""
    dropout: bool = False
    """Dropout between the convolutions of each block; its rate belongs to the protocol, not to the name."""

    def __post_init__(self) -> None:
        if self.family == "wrn":
            _check_wrn(self)
        elif self.family == "preact-resnet":
            _check_depth(self, PREACT_KERNELS)
        else:
            _check_imagenet_width(self)
            _check_depth(self, IMAGENET_BLOCKS[self.family])

    @property
    def name(self) -> str:
        """The canonical name; `parse(network.name) == network`."""
        if self.family == "preact-resnet":
            return f"pre-act-ResNet-{self.depth}"
        if self.family == "imagenet-preact":
            return f"pre-ResNet-{self.depth}"
        if self.family == "imagenet-bottleneck":
            plain = self.widen_factor == 1
            return f"ResNet-{self.depth}" if plain else f"WRN-{self.depth}-{self.widen_factor}-bottleneck"
        base = f"WRN-{self.depth}-{self.widen_factor}"
        if self.family == "imagenet-basic":
            return base
        # The bare WRN-34-2 is the paper's COCO detector, so CIFAR's net of that size has to spell its block.
        block = "" if self.kernels == (3, 3) and base != _COCO else _printed_block(self.kernels)
        return base + block + ("-dropout" if self.dropout else "")

    @property
    def blocks_per_group(self) -> tuple[int, ...]:
        """Residual blocks in each group: three groups for CIFAR, four for ImageNet."""
        if self.family == "wrn":
            return ((self.depth - 4) // _layers_per_block(self.kernels),) * 3
        if self.family == "preact-resnet":
            return ((self.depth - 2) // (3 * len(self.kernels)),) * 3
        return IMAGENET_BLOCKS[self.family][self.depth]

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
    def image_size(self) -> int:
        """Height and width in pixels of the images the network was published for."""
        return 224 if self.is_imagenet else 32

    @property
    def num_classes(self) -> int:
        """Classes of the family's first dataset: CIFAR-10's 10 or ImageNet's 1000."""
        return 1000 if self.is_imagenet else 10

    def __str__(self) -> str:
        return self.name


def known_names() -> tuple[str, ...]:
    """Every name the paper prints, in the order of its tables, that `parse` accepts."""
    table_2 = ("40-2-B(1,3,1)", "40-2-B(3,1)", "40-2-B(1,3)", "40-2-B(3,1,1)", "28-2-B(3,3)", "22-2-B(3,1,3)")
    table_3 = ("40-2-B(3)", "40-2-B(3,3)", "40-2-B(3,3,3)", "40-2-B(3,3,3,3)")
    table_4 = ("40-1", "40-2", "40-4", "40-8", "28-10", "28-12", "22-8", "22-10", "16-8", "16-10")
    table_6 = ("16-4", "16-4-dropout", "28-10-dropout", "52-1", "52-1-dropout")
    table_7 = ("18-1.0", "18-1.5", "18-2.0", "18-3.0", "34-1.0", "34-1.5", "34-2.0")
    table_9 = ("50-2-bottleneck", "40-10-dropout", "16-8-dropout")
    resnets = tuple(f"pre-act-ResNet-{depth}" for depth in PREACT_KERNELS)
    resnets += ("ResNet-50", "ResNet-101", "ResNet-152", "pre-ResNet-200")
    return tuple(f"WRN-{rest}" for rest in table_2 + table_3 + table_4 + table_6 + table_7 + table_9) + resnets


def parse(name: str) -> Network:
    """Read a network's printed name.

    Raises UserError that says which part of the name is wrong and names the nearest valid one.
    """
    if name == _COCO:
        raise UserError(
            f"{name} is the paper's COCO detector (MultiPathNet); only its classification backbone exists here",
            "use WRN-34-2.0 for the ImageNet backbone, or WRN-34-2-B(3,3) for a CIFAR network of that size",
        )
    if _QUOTED.fullmatch(name):
        raise UserError(
            f"{name} is another paper's result, quoted in Table 5; its network is not built here",
            f"choose a network of the paper, such as {_nearest_known(name) if 'ResNet' in name else 'WRN-28-10'}",
        )
    if match := _RESNET.fullmatch(name):
        return _parse_resnet(match["prefix"], int(match["depth"]))
    if match := _WRN.fullmatch(name):
        return _parse_wrn(name, match)
    raise UserError(f"unknown network {name!r}", f"the nearest name is {_nearest(name)}; names are {_FORMS}")


_FORMS = "WRN-depth-widen[-B(kernels)][-dropout], WRN-50-2-bottleneck, ResNet-50, pre-act-ResNet-164"


def _parse_resnet(prefix: str, depth: int) -> Network:
    if prefix == "pre-act-":
        return Network("preact-resnet", depth, 1, PREACT_KERNELS.get(depth, (1, 3, 1)))
    if prefix == "pre-":
        return Network("imagenet-preact", depth, 1, (1, 3, 1))
    if depth in IMAGENET_BLOCKS["imagenet-basic"]:
        return Network("imagenet-basic", depth, 1.0)
    return Network("imagenet-bottleneck", depth, 1, (1, 3, 1))


def _parse_wrn(name: str, match: re.Match[str]) -> Network:
    depth, widen, dropout = int(match["depth"]), match["widen"], match["dropout"] is not None
    decimal = "." in widen
    if (match["bottleneck"] or decimal) and (match["block"] or dropout):
        extra = (match["block"] or match["dropout"]).removeprefix("-")
        plain = name.replace(match["block"] or "", "").replace(match["dropout"] or "", "")
        raise UserError(f"{name}: {extra} belongs to CIFAR's networks, not to ImageNet's", f"write {_nearest(plain)}")
    if match["bottleneck"]:
        if decimal:
            whole = f"WRN-{depth}-{max(1, round(float(widen)))}-bottleneck"
            raise UserError(f"{name}: a bottleneck's widen factor is a whole number", f"write {_nearest(whole)}")
        return Network("imagenet-bottleneck", depth, int(widen), (1, 3, 1))
    if decimal:
        if depth not in IMAGENET_BLOCKS["imagenet-basic"]:
            whole = f"WRN-{depth}-{max(1, round(float(widen)))}"
            raise UserError(
                f"{name}: a decimal widen factor belongs to ImageNet's WRN-18 and WRN-34, not to depth {depth}",
                f"write {_nearest(whole)}",
            )
        return Network("imagenet-basic", depth, float(widen))
    kernels = _parse_block(name, match["block"]) if match["block"] else (3, 3)
    return Network("wrn", depth, int(widen), kernels, dropout)


def _parse_block(name: str, text: str) -> tuple[int, ...]:
    parts = text.removeprefix("-B(").removesuffix(")").split(",")
    if not all(part in ("1", "3") for part in parts) or "3" not in parts:
        raise UserError(
            f"{name}: unknown block {text.removeprefix('-')}",
            f"list kernel sizes 1 and 3, with at least one 3, without spaces; nearest known: {_nearest_known(name)}",
        )
    return tuple(int(part) for part in parts)


def _layers_per_block(kernels: tuple[int, ...]) -> int:
    """By how much depth grows with one block in each of the three groups.

    Table 3 keeps the number of 3x3 convolutions of WRN-40-2 fixed, so its depth counts them; Table 2's parameter counts
    only come out when blocks with a 1x1 convolution are counted as two layers, whatever their length.
    """
    return 3 * len(kernels) if 1 not in kernels else 6


def _printed_block(kernels: tuple[int, ...]) -> str:
    return f"-B({','.join(map(str, kernels))})"


def _check_wrn(network: Network) -> None:
    depth, widen, kernels = network.depth, network.widen_factor, network.kernels
    if network.dropout and len(kernels) < 2:
        raise UserError(
            f"{network.name}: dropout stands between a block's convolutions, and B(3) has only one",
            "leave -dropout out, or take a block of two or more convolutions such as B(3,3)",
        )
    if depth > _DEEPEST or widen > _WIDEST:
        what = f"{network.name}: deeper than {_DEEPEST} layers or wider than {_WIDEST} times"
        raise UserError(what, "write WRN-28-10, for example")
    step = _layers_per_block(kernels)
    if depth < 4 + step or (depth - 4) % step:
        raise UserError(f"{network.name}: depth {depth} is not {step}N+4 with N from 1", _depth_remedy(network, step))
    if widen < 1:
        nearest = Network("wrn", depth, 1, kernels, network.dropout).name
        raise UserError(f"{network.name}: widen factor {widen} is not a whole number from 1", f"write {nearest}")


def _depth_remedy(network: Network, step: int) -> str:
    depth, widen = network.depth, max(1, int(network.widen_factor))
    below = max(1, (depth - 4) // step)
    depths = sorted((4 + step * below, 4 + step * (below + 1)), key=lambda valid: abs(valid - depth))
    names = [Network("wrn", valid, widen, network.kernels, network.dropout).name for valid in depths]
    imagenet = ""
    if network.kernels == (3, 3) and not network.dropout:
        if depth in IMAGENET_BLOCKS["imagenet-basic"]:
            imagenet = f"{Network('imagenet-basic', depth, float(widen)).name} for ImageNet, or for CIFAR "
        if depth in IMAGENET_BLOCKS["imagenet-bottleneck"]:
            wide = Network("imagenet-bottleneck", depth, widen, (1, 3, 1))
            imagenet = f"{wide.name} for ImageNet, or for CIFAR "
    return f"write {imagenet}{' or '.join(names)}"


def _check_depth(network: Network, depths: dict[int, tuple[int, ...]]) -> None:
    if network.depth not in depths:
        nearest = min(depths, key=lambda depth: abs(depth - network.depth))
        raise UserError(
            f"{network.name}: depth {network.depth} is not one of {', '.join(map(str, depths))}",
            f"write {network.name.replace(f'-{network.depth}', f'-{nearest}', 1)}",
        )


def _check_imagenet_width(network: Network) -> None:
    widen, basic = network.widen_factor, network.family == "imagenet-basic"
    if widen <= 0 or (64 * widen) % 1:
        kind = "a decimal number that makes 64 x widen whole" if basic else "a whole number from 1"
        nearest = "WRN-18-1.0" if basic else "WRN-50-2-bottleneck"
        raise UserError(f"{network.name}: widen factor {widen} is not {kind}", f"write {nearest}, for example")


def _nearest(name: str) -> str:
    """The valid name most like `name`: its own spelling mended where that suffices, else one the paper prints."""
    mended = re.sub(r"\s", "", name.replace("_", "-")).lower()
    for ours, printed in (("wide-resnet", "wrn"), ("wrn", "WRN"), ("resnet", "ResNet"), ("b(", "B(")):
        mended = mended.replace(ours, printed)
    try:
        # Only text of the right form is read, so that `parse` cannot come back here with the same text.
        return parse(mended).name if _WRN.fullmatch(mended) or _RESNET.fullmatch(mended) else _nearest_known(mended)
    except UserError:
        return _nearest_known(mended)


def _nearest_known(name: str) -> str:
    return (difflib.get_close_matches(name, known_names(), n=1, cutoff=0.4) or ["WRN-28-10"])[0]
