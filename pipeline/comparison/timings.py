"""Figure 4 on another machine. Seconds do not carry over, so a time is judged by its order among the others alone."""

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from pipeline.comparison.cells import Cell
from pipeline.comparison.deviations import Deviation
from pipeline.comparison.statistics import Verdict
from pipeline.errors import UserError
from pipeline.publication.paper import Hardware


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
        found = json.loads(path.read_bytes())
        ms = {str(timing["network"]): float(timing["ms"]["median"]) for timing in found["timings"]}
        return Timings(str(found["machine"]["name"]), str(found["precision"]), ms)
    except (OSError, ValueError, TypeError, KeyError) as error:
        why = error.strerror if isinstance(error, OSError) else f"not such a file: {error!r}"
        raise UserError(f"--timings {path}: {why}", f"make it with: wrn-pipe bench figure-4 --json > {path}") from None


def judged(cells: Sequence[Cell], timings: Timings, theirs: Hardware) -> tuple[Cell, ...]:
    """The cells, those with a measured time judged: "same order" where it stands to every other as the paper's does."""
    ms = timings.ms
    found = [Deviation("device", theirs.device, timings.device, False, "only the order of times carries over")]
    if timings.precision != "fp32":
        found.append(Deviation("precision", "fp32", timings.precision, False, "another speed on most devices"))
    claims = [c.claim for c in cells if c.claim and c.claim.metric == "batch32_ms" and c.claim.network in ms]
    made = []
    for cell in cells:
        claim = cell.claim
        if claim in claims and claim and len(claims) > 1:
            same = all((claim.value < other.value) == (ms[claim.network] < ms[other.network]) for other in claims)
            verdict = Verdict.SAME_ORDER if same else Verdict.OTHER_ORDER
            cell = replace(cell, time=ms[claim.network], verdict=verdict, deviations=tuple(found))
        made.append(cell)
    return tuple(made)
