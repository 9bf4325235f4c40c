"""Failures the tool can explain: what happened and where on one line, how to mend it on the next."""

import inspect
import json
import os
import signal
import sys
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path

LAST_WORDS = Path("scratch/last-words")
"""What stages that failed said, until they are tried again: for `wrn-pipe status`."""

EXIT_CODE_FILE = "WRN_PIPE_EXIT_CODE_FILE"
"""Names a file that receives the exit code of a failed stage: DVC itself reports every failure as 255."""


class WrnPipeError(Exception):
    """The work ran and failed, or found a difference. Exit code 1."""

    exit_code = 1

    def __init__(self, what: str, remedy: str) -> None:
        super().__init__(what, remedy)  # both, so that pickle brings it whole from a child process
        self.what = what
        self.remedy = remedy

    def __str__(self) -> str:
        return f"error: {self.what}\n  fix: {self.remedy}"


class UserError(WrnPipeError):
    """The user can mend the cause: a wrong name, a bad file, an unreachable source. Exit code 2."""

    exit_code = 2


class StoppedError(WrnPipeError):
    """The user or the scheduler ended the work before its time. Exit code 128 and the signal's number."""

    def __init__(self, signum: int, what: str, remedy: str) -> None:
        super().__init__(f"{signal.Signals(signum).name}: {what}", remedy)
        self.signum = signum
        self.exit_code = 128 + signum


@contextmanager
def exit_on_error() -> Iterator[None]:
    """End the process with the error's two lines and its exit code, without a traceback."""
    try:
        yield
    except WrnPipeError as error:
        print(error, file=sys.stderr, flush=True)
        if path := os.environ.get(EXIT_CODE_FILE):
            Path(path).write_text(str(error.exit_code))
        raise SystemExit(error.exit_code) from None


@dataclass(frozen=True)
class LastWords:
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
def keep_last_words(stage: str) -> Iterator[None]:
    """While the block runs `stage`, such as train@RUN: note an error and raise it on; forget an earlier attempt's."""
    path = LAST_WORDS / f"{stage}.json"
    forget_last_words(stage)
    try:
        yield
    except WrnPipeError as error:
        _write(path, LastWords(error.exit_code, error.what, error.remedy))
        raise
    except Exception as error:
        _write(path, LastWords(1, traceback.format_exception_only(error)[-1].strip(), None))
        raise


def last_words(stage: str) -> LastWords | None:
    """Of the last attempt at `stage`; None where it came to its end, was never made, or was killed."""
    with suppress(FileNotFoundError, ValueError, TypeError):
        return LastWords(**json.loads((LAST_WORDS / f"{stage}.json").read_text(encoding="utf-8")))
    return None


def forget_last_words(stage: str) -> None:
    """Before it is tried again."""
    (LAST_WORDS / f"{stage}.json").unlink(missing_ok=True)


def _write(path: Path, words: LastWords) -> None:
    # The error itself is what matters: a disk too full for this file must not put another one in its place.
    with suppress(OSError):
        path.parent.mkdir(parents=True, exist_ok=True)
        part = path.with_suffix(".part")
        part.write_text(json.dumps(asdict(words)), encoding="utf-8")
        os.replace(part, path)


def run_stage(main: Callable[..., None]) -> None:
    """Call a stage's `main` with the words of its command line; options are for callers in Python."""
    from pipeline.runner.interruptions import stage_attempt  # which imports this module

    words = sys.argv[1:]
    with exit_on_error():
        module = main.__globals__["__spec__"].name
        wanted = [p.name for p in inspect.signature(main).parameters.values() if p.kind != p.KEYWORD_ONLY]
        if len(words) != len(wanted):
            usage = " ".join(["python -m", module, *(name.upper() for name in wanted)])
            raise UserError(f"{len(words)} words where the stage takes {len(wanted)}", usage)
        with stage_attempt("@".join([module.removeprefix("stages."), *words])):
            main(*words)
