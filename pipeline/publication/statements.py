"""What the paper says about which network is better. The data is orderings.yaml."""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field
from ruamel.yaml import YAML

from pipeline.publication.claims import Claim


class _Entry(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)

    text: str
    source: str
    pairs: list[Annotated[list[str], Field(min_length=2, max_length=2)]] = Field(min_length=1)


@dataclass(frozen=True)
class Ordering:
    """One statement of the paper about the order of errors."""

    name: str
    text: str
    source: str
    pairs: tuple[tuple[Claim, Claim], ...]
    """(lower error, higher error), as the paper has it."""


def read_orderings(path: Path, claims: Iterable[Claim]) -> tuple[Ordering, ...]:
    """All orderings, in the paper's order. Raises KeyError when one names a claim that there is not."""
    known = {claim.id: claim for claim in claims}
    found = []
    for name, value in YAML(typ="safe", pure=True).load(path.read_text(encoding="utf-8")).items():
        entry = _Entry.model_validate(value)
        pairs = [(known[f"{lower}/top1_error"], known[f"{higher}/top1_error"]) for lower, higher in entry.pairs]
        found.append(Ordering(name, entry.text, entry.source, tuple(pairs)))
    return tuple(found)
