"""Figure 4 on another machine. Seconds do not carry over, so a time is judged by its order among the others alone."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from pydantic import BaseModel, ConfigDict, ValidationError

from pipeline.comparison.cells import Cell
from pipeline.comparison.deviations import Deviation
from pipeline.comparison.statistics import Verdict
from pipeline.errors import UserError
from pipeline.publication.claims import Claim
from pipeline.publication.protocols import Hardware

COMMAND = "wrn-pipe bench figure-4 --json"


class _Repeats(BaseModel):
    median: float


class _Timing(BaseModel):
    network: str
    ms: _Repeats


class _Machine(BaseModel):
    name: str


class _File(BaseModel):
    model_config = ConfigDict(strict=True)

    machine: _Machine
    precision: str
    timings: list[_Timing]


@dataclass(frozen=True)
class Timings:
    """What `wrn-pipe bench figure-4` measured on one machine."""

    device: str
    precision: str
    ms: dict[str, float]
    """Canonical network -> milliseconds of a training step's forward and backward pass at batch 32."""


def read(path: Path) -> Timings:
    """Raises UserError where `path` is not what the benchmark prints with --json."""
    try:
        found = _File.model_validate_json(path.read_bytes())
    except (OSError, ValidationError) as error:
        why = error.strerror if isinstance(error, OSError) else error.errors()[0]["msg"]
        raise UserError(f"--timings {path}: {why}", f"make it with: {COMMAND} > {path}") from None
    return Timings(found.machine.name, found.precision, {t.network: t.ms.median for t in found.timings})


def judged(cells: Sequence[Cell], timings: Timings, theirs: Hardware) -> tuple[Cell, ...]:
    """The cells, those with a measured time judged: "same order" where it stands to every other as the paper's does."""
    if len(timings.ms) < 2:
        return tuple(cells)
    claims = [c.claim for c in cells if c.claim and c.claim.metric == "batch32_ms" and c.claim.network in timings.ms]
    return tuple(_judged(cell, cell.claim, claims, timings, theirs) if cell.claim in claims else cell for cell in cells)


def _judged(cell: Cell, claim: Claim | None, claims: Sequence[Claim], timings: Timings, theirs: Hardware) -> Cell:
    assert claim is not None, "it is one of the measured claims"
    ms = timings.ms
    same = all((claim.value < other.value) == (ms[claim.network] < ms[other.network]) for other in claims)
    found = [Deviation("device", theirs.device, timings.device, False, "only the order of times carries over")]
    if timings.precision != "fp32":
        found.append(Deviation("precision", "fp32", timings.precision, False, "another speed on most devices"))
    verdict = Verdict.SAME_ORDER if same else Verdict.OTHER_ORDER
    return replace(cell, time=ms[claim.network], verdict=verdict, deviations=tuple(found))
