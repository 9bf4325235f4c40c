"""What stands beside the paper's numbers: what it says about which network is better, and our footnotes to it."""

import fnmatch
from dataclasses import dataclass

from pydantic import BaseModel, ConfigDict, Field

from pipeline.publication.claims import Claim, Kind, Statistic


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
