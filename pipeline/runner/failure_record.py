"""How a stage's last attempt failed, as a file that stays until the stage is tried again: for `wrn-pipe status`."""

import json
import traceback
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass

from pipeline.artifacts import SCRATCH
from pipeline.errors import WrnPipeError
from pipeline.publish import new_file

FOLDER = SCRATCH / "failures"


@dataclass(frozen=True)
class FailureRecord:
    """How a stage failed."""

    exit_code: int
    """130 and 143: stopped by a signal; 2: a usage error; 1: anything else."""
    what: str
    remedy: str | None
    """None for an unforeseen error."""

    @property
    def stopped(self) -> bool:
        return self.exit_code > 128

    @property
    def lines(self) -> tuple[str, ...]:
        return (self.what, f"fix: {self.remedy}") if self.remedy else (self.what,)


@contextmanager
def keep_failure_record(stage: str) -> Iterator[None]:
    """While the block runs `stage`, such as train@RUN: note an error and raise it on; forget an earlier attempt's."""
    forget_failure_record(stage)
    try:
        yield
    except Exception as error:
        if isinstance(error, WrnPipeError):
            record = FailureRecord(error.exit_code, error.what, error.remedy)
        else:
            record = FailureRecord(1, traceback.format_exception_only(error)[-1].strip(), None)
        # The error itself is what matters: a disk too full for this file must not put another one in its place.
        with suppress(OSError):
            new_file(FOLDER / f"{stage}.json", json.dumps(asdict(record)).encode())
        raise


def failure_record(stage: str) -> FailureRecord | None:
    """Of the last attempt at `stage`; None where it was completed, was never made, or was killed."""
    with suppress(FileNotFoundError):
        return FailureRecord(**json.loads((FOLDER / f"{stage}.json").read_text(encoding="utf-8")))
    return None


def forget_failure_record(stage: str) -> None:
    """Before it is tried again."""
    (FOLDER / f"{stage}.json").unlink(missing_ok=True)
