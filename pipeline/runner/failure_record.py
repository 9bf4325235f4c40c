"""How a stage's last attempt failed, as a file that stays until the stage is tried again: for `wrn-pipe status`."""

import json
import os
import traceback
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path

from pipeline.errors import WrnPipeError

FOLDER = Path("scratch/last-words")


@dataclass(frozen=True)
class FailureRecord:
    """How a stage ended that did not come to its end."""

    exit_code: int
    """130 and 143: stopped by a signal; 2: a mistake of the user's; 1: anything else."""
    what: str
    remedy: str | None
    """None for an error that nobody has foreseen."""

    @property
    def stopped(self) -> bool:
        return self.exit_code > 128


@contextmanager
def keep_failure_record(stage: str) -> Iterator[None]:
    """While the block runs `stage`, such as train@RUN: note an error and raise it on; forget an earlier attempt's."""
    path = FOLDER / f"{stage}.json"
    forget_failure_record(stage)
    try:
        yield
    except WrnPipeError as error:
        _write(path, FailureRecord(error.exit_code, error.what, error.remedy))
        raise
    except Exception as error:
        _write(path, FailureRecord(1, traceback.format_exception_only(error)[-1].strip(), None))
        raise


def failure_record(stage: str) -> FailureRecord | None:
    """Of the last attempt at `stage`; None where it came to its end, was never made, or was killed."""
    with suppress(FileNotFoundError, ValueError, TypeError):
        return FailureRecord(**json.loads((FOLDER / f"{stage}.json").read_text(encoding="utf-8")))
    return None


def forget_failure_record(stage: str) -> None:
    """Before it is tried again."""
    (FOLDER / f"{stage}.json").unlink(missing_ok=True)


def _write(path: Path, record: FailureRecord) -> None:
    # The error itself is what matters: a disk too full for this file must not put another one in its place.
    with suppress(OSError):
        path.parent.mkdir(parents=True, exist_ok=True)
        part = path.with_suffix(".part")
        part.write_text(json.dumps(asdict(record)), encoding="utf-8")
        os.replace(part, path)
