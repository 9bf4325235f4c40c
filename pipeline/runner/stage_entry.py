"""How a stage starts and ends: by its command line, its errors in two lines, a signal at once; and how its last attempt
failed, as a file that stays until the stage is tried again, for `wrn-pipe status`."""

import json
import sys
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path

from pipeline.artifacts import SCRATCH
from pipeline.atomic_write import new_file
from pipeline.errors import WrnPipeError, exit_on_error
from pipeline.params import Plan
from pipeline.runner.interruptions import NOTHING_HALF_DONE, stop_at_once


def run_stage(main: Callable[..., None], kept: Callable[..., str] | None = None) -> None:
    """Call a stage's `main` with the words of its command line. `kept`: says, of the same words, what the stage leaves
    behind when a signal stops it; None: nothing."""
    words = sys.argv[1:]
    name = main.__globals__["__spec__"].name.removeprefix("stages.")
    with exit_on_error(), stage_attempt("@".join([name, *words]), kept and partial(kept, *words)):
        main(*words)


@contextmanager
def stage_attempt(stage: str, kept: Callable[[], str] | None = None) -> Iterator[None]:
    """The block runs `stage`, such as convert@cifar10-rgb: a signal stops it at once, and how it failed is recorded."""
    with keep_failure_record(stage), stop_at_once(kept or (lambda: NOTHING_HALF_DONE), f"wrn-pipe repro {stage}"):
        yield


def mirror(plan: Plan, run_ids: Sequence[str]) -> None:
    """Have MLflow show runs whose files were just published. Its failures are said, not raised."""
    from pipeline.publication.wide_resnet import PAPER
    from pipeline.tracking.sync import log_runs

    log_runs(PAPER, plan, run_ids)


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
    """While the block runs `stage`: note an error and raise it on; forget an earlier attempt's."""
    forget_failure_record(stage)
    try:
        yield
    except Exception as error:
        if isinstance(error, WrnPipeError):
            record = FailureRecord(error.exit_code, error.what, error.remedy)
        else:
            record = FailureRecord(1, traceback.format_exception_only(error)[-1].strip(), None)
        with suppress(OSError):  # on a full disk the error itself is what matters
            new_file(_record_of(stage), json.dumps(asdict(record)).encode())
        raise


def failure_record(stage: str) -> FailureRecord | None:
    """Of the last attempt at `stage`; None where it was completed, was never made, or was killed."""
    with suppress(FileNotFoundError):
        return FailureRecord(**json.loads(_record_of(stage).read_text(encoding="utf-8")))
    return None


def forget_failure_record(stage: str) -> None:
    _record_of(stage).unlink(missing_ok=True)


def _record_of(stage: str) -> Path:
    return SCRATCH / "failures" / f"{stage}.json"
