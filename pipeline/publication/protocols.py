"""The paper's own protocols, where each of their fields is said, and what a deviation from it weighs."""

from dataclasses import dataclass
from typing import Literal

from pydantic import BaseModel, ConfigDict

from pipeline.params import Protocol


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


class Weight(BaseModel):
    """What a difference in one field of a protocol weighs: an entry of deviations.yaml."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    weight: Literal["material", "minor", "none"]
    reason: str
    evidence: str
    """What the weight rests on: the paper, the authors' code, or a measurement."""
    minor_among: tuple[str, ...] = ()
    """Values among which a difference is minor, whatever `weight` says."""
    minor_reason: str = ""
    minor_evidence: str = ""
