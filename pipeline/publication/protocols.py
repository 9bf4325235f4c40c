"""The paper's own protocols and where each of their fields is said. The data is protocols.yaml."""

import functools
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML

from pipeline.errors import UserError
from pipeline.params import Protocol, nearest
from pipeline.publication.claims import Claim

PROTOCOLS = Path(__file__).with_name("protocols.yaml")

_BY_PREPROCESSING = {
    "zca": "paper-zca",
    "meanstd": "paper-meanstd",
    "unit": "paper-svhn",
    "imagenet": "paper-imagenet",
}


@dataclass(frozen=True)
class PaperProtocol:
    """A protocol of the paper with its sources."""

    name: str
    protocol: Protocol
    sources: dict[str, str]
    """Field of `protocol` -> where it is said."""

    def is_stated(self, field: str) -> bool:
        """Whether the paper or its code gives the field's value."""
        return not self.sources[field].startswith("unstated")


@dataclass(frozen=True)
class Hardware:
    """What the paper's numbers were measured with."""

    device: str
    library: str


@functools.cache
def paper_protocols() -> dict[str, PaperProtocol]:
    """The paper's protocols by name."""
    return {
        name: PaperProtocol(
            name,
            Protocol.model_validate({field: value for field, (value, _) in fields.items()}),
            {field: source for field, (_, source) in fields.items()},
        )
        for name, fields in _data()["protocols"].items()
    }


def paper_protocol(name: str) -> PaperProtocol:
    """One of the paper's protocols. Raises UserError that names the nearest."""
    known = paper_protocols()
    if name not in known:
        raise UserError(f"the paper has no protocol {name!r}", nearest(name, set(known), "protocol"))
    return known[name]


def protocol_of(claim: Claim) -> PaperProtocol | None:
    """The protocol behind a claim; None where no training of this tool can answer it.

    That is for counts, timings, numbers quoted from others, and COCO, whose detector (MultiPathNet) is another system
    and whose training the paper does not describe.
    """
    if claim.kind != "runnable" or claim.dataset == "coco":
        return None
    return paper_protocol(_BY_PREPROCESSING[claim.preprocessing or ""])


def published_images(dataset: str, split: str) -> int:
    """Images in a split as the paper used it: section 3. Raises KeyError for datasets the paper did not train on."""
    return int(_data()["images"][dataset][split])


def published_classes(dataset: str) -> int:
    """Classes of a dataset of the paper. Raises KeyError for datasets the paper did not train on."""
    return int(_data()["classes"][dataset])


def published_hardware() -> Hardware:
    return Hardware(**_data()["hardware"])


@functools.cache
def _data() -> dict[str, Any]:
    data: dict[str, Any] = YAML(typ="safe", pure=True).load(PROTOCOLS.read_text(encoding="utf-8"))
    return data
