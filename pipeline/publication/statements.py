"""What stands beside the paper's numbers: its protocols with the source of each field, what a deviation from them
weighs, what it says about which network is better, and our footnotes to it."""

import fnmatch
from dataclasses import dataclass
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

from pipeline.params import Protocol
from pipeline.publication.claims import Claim, Kind, Statistic


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


class Caveat(BaseModel):
    """A numbered footnote: a contradiction of the paper, or how the tool reads what it leaves unsaid. Its number is the
    same in every table, so it can be cited."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    number: int
    text: str
    claims: tuple[str, ...] = Field(min_length=1)
    """Patterns of claim ids, as fnmatch reads them."""
    statistic: Statistic | None = None
    kind: Kind | None = None
    """These two restrict it to claims of a statistic and of a kind."""

    def covers(self, claim: Claim) -> bool:
        if self.statistic not in (None, claim.statistic) or self.kind not in (None, claim.kind):
            return False
        return any(fnmatch.fnmatchcase(claim.id, pattern) for pattern in self.claims)


@dataclass(frozen=True)
class Ordering:
    """One statement of the paper about the order of errors."""

    name: str
    text: str
    source: str
    pairs: tuple[tuple[Claim, Claim], ...]
    """(lower error, higher error), as the paper has it."""
