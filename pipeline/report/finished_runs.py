"""A finished run with all that tells where its number came from: run.json, its training curve, digests of its files.

Read from what git has of a run, so that a clone without weights and predictions writes the same page.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipeline.artifacts import EpochRecord, read_history, read_record
from pipeline.comparison.results import Result


@dataclass(frozen=True)
class Finished:
    """A run that has been trained and evaluated."""

    result: Result
    record: dict[str, Any]
    """All of run.json; `result.record` has only what decides a comparison."""
    history: list[EpochRecord]
    digests: dict[str, str]
    """File, relative to the root -> sha256, as digests.json has it."""

    @property
    def protocol(self) -> str:
        return str(self.record["protocol_name"])

    @property
    def error(self) -> str:
        """With what it is one of: the test split, or training images that were held out."""
        name = "test error" if self.result.metrics.split == "test" else "held-out error"
        return f"{name} {self.result.top1_error:.2f} %"


def load_finished(root: Path, results: Iterable[Result]) -> list[Finished]:
    """The runs of `results`, in their order. Raises UserError that names a file that is missing or broken."""
    found = []
    for result in results:
        again, evaluation = f"wrn-pipe repro {result.run}", root / result.folder
        record = read_record(evaluation / "run.json", again, "protocol_name")
        digests = read_record(evaluation / "digests.json", again, "files")["files"]
        found.append(Finished(result, record, read_history(root / result.history, again), digests))
    return found
