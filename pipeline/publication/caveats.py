"""Numbered footnotes to the paper's numbers: its contradictions, and how the tool reads what it leaves unsaid."""

import fnmatch
from dataclasses import dataclass
from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field
from ruamel.yaml import YAML

from pipeline.publication.claims import Claim, Kind, Statistic


class _Entry(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)

    text: str
    claims: list[str] = Field(min_length=1)
    statistic: Statistic | None = None
    kind: Kind | None = None


@dataclass(frozen=True)
class Caveat:
    """One footnote. Its number is the same in every table, so it can be cited."""

    number: int
    text: str
    claims: tuple[str, ...]
    """Patterns of claim ids, as fnmatch reads them."""
    statistic: Statistic | None
    """Restricts the footnote to claims of this statistic."""
    kind: Kind | None
    """Restricts it to claims of this kind."""

    def covers(self, claim: Claim) -> bool:
        if self.statistic not in (None, claim.statistic) or self.kind not in (None, claim.kind):
            return False
        return any(fnmatch.fnmatchcase(claim.id, pattern) for pattern in self.claims)


def read_caveats(path: Path) -> tuple[Caveat, ...]:
    """All footnotes of a caveats.yaml, by number."""
    entries = YAML(typ="safe", pure=True).load(path.read_text(encoding="utf-8"))
    checked = {number: _Entry.model_validate(entry) for number, entry in entries.items()}
    return tuple(
        Caveat(number, entry.text, tuple(entry.claims), entry.statistic, entry.kind)
        for number, entry in sorted(checked.items())
    )
