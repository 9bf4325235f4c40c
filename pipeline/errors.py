"""Failures the tool can explain: what happened and where on one line, how to fix it on the next."""

import os
import signal
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

EXIT_CODE_FILE = "WRN_PIPE_EXIT_CODE_FILE"
"""Names a file that receives the exit code of a failed stage: DVC itself reports every failure as 255."""


class WrnPipeError(Exception):
    """The work ran and failed, or found a difference. Exit code 1."""

    exit_code = 1

    def __init__(self, what: str, remedy: str) -> None:
        super().__init__(what, remedy)
        self.what = what
        self.remedy = remedy

    def __reduce__(self) -> Any:
        """Comes whole from a child process, whatever the constructor takes."""
        return BaseException.__new__, (type(self), *self.args), self.__dict__

    def __str__(self) -> str:
        return f"error: {self.what}\n  fix: {self.remedy}"


class UserError(WrnPipeError):
    """The user can fix the cause: a wrong name, a bad file, an unreachable source. Exit code 2."""

    exit_code = 2


class StoppedError(WrnPipeError):
    """The user or the scheduler ended the work before its time. Exit code 128 and the signal's number."""

    def __init__(self, signum: int, what: str, remedy: str) -> None:
        super().__init__(f"{signal.Signals(signum).name}: {what}", remedy)
        self.signum = signum
        self.exit_code = 128 + signum


class TimeOverError(WrnPipeError):
    """The time that --for gave is over; what trained is saved. Exit code 75, as sysexits.h has it for "try again"."""

    exit_code = 75


OUTSIDE = "before or after the training's steps"
"""Where a training was stopped that had nothing to finish or save."""


def continue_with(run_id: str) -> str:
    """The command that takes a training up again."""
    return f"wrn-pipe repro train@{run_id}"


class InterruptedTrainingError(StoppedError):
    """A signal stopped the training; its state is saved."""

    def __init__(self, signum: int, where: str, run_id: str) -> None:
        super().__init__(signum, f"stopped {where}, nothing is lost", f"continue with: {continue_with(run_id)}")
        self.where = where


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


def nearest(word: str, known: Iterable[str], noun: str) -> str:
    """A remedy that names the nearest known word, or all of them."""
    import difflib

    known = sorted(known)
    if close := difflib.get_close_matches(word, known, n=1, cutoff=0.6):
        return f"did you mean {close[0]}?"
    shown = ", ".join(known[:12]) + (", ..." if len(known) > 12 else "")
    return f"known {noun}s: {shown or 'none'}"
