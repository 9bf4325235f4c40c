"""The networks of the paper's tables that are built here, and any other ones."""

import csv

from hypothesis import strategies as st

from pipeline.errors import UserError
from pipeline.models.names import BLOCKS, Network, parse
from pipeline.publication.wide_resnet import PAPER


def _is_built(name: str) -> bool:
    try:
        parse(name)
    except UserError:
        return False
    return True


with (PAPER.folder / "claims.csv").open() as _file:
    CLAIMED = list(csv.DictReader(_file))
"""The rows of claims.csv."""
NAMES = [name for name in dict.fromkeys(row["model"] for row in CLAIMED) if _is_built(name)]
TORCHVISION = {
    **{f"ResNet-{depth}": f"resnet{depth}" for depth in (18, 34, 50, 101, 152)},
    **{f"WRN-{depth}-2-bottleneck": f"wide_resnet{depth}_2" for depth in (50, 101)},
}
"""Ours -> torchvision's name."""


@st.composite
def networks(draw: st.DrawFn, deep: bool = True) -> Network:
    """Any network, or one of the shallower ones of its family: depth only repeats blocks."""
    families = ["wrn", *BLOCKS] if deep else ["wrn", "imagenet-basic", "imagenet-bottleneck"]
    family = draw(st.sampled_from(families))
    if family == "wrn":
        kernels = tuple(
            draw(st.lists(st.sampled_from([1, 3]), min_size=1, max_size=5).filter(lambda block: 3 in block))
        )
        depth = 4 + (6 if 1 in kernels else 3 * len(kernels)) * draw(st.integers(1, 30 if deep else 2))
        dropout = draw(st.booleans()) if len(kernels) > 1 else False
        return Network("wrn", depth, draw(st.integers(1, 40 if deep else 12)), kernels, dropout)
    depth = draw(st.sampled_from(sorted(BLOCKS[family]))) if deep else min(BLOCKS[family])
    if family == "imagenet-basic":
        return Network(family, depth, draw(st.integers(1, 512)) / 64)
    return Network(family, depth, draw(st.integers(1, 4)) if family == "imagenet-bottleneck" else 1)
