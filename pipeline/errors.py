"""Failures the tool can explain: what happened and where on one line, how to mend it on the next."""

import inspect
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

EXIT_CODE_FILE = "WRN_PIPE_EXIT_CODE_FILE"
"""Names a file that receives the exit code of a failed stage: DVC itself reports every failure as 255."""


class WrnPipeError(Exception):
    """The work ran and failed, or found a difference. Exit code 1."""

    exit_code = 1

    def __init__(self, what: str, remedy: str) -> None:
        super().__init__(what)
        self.what = what
        self.remedy = remedy

    def __str__(self) -> str:
        return f"error: {self.what}\n  fix: {self.remedy}"


class UserError(WrnPipeError):
    """The user can mend the cause: a wrong name, a bad file, an unreachable source. Exit code 2."""

    exit_code = 2


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


def run_stage(main: Callable[..., None]) -> None:
    """Call a stage's `main` with the words of its command line; options are for callers in Python."""
    words = sys.argv[1:]
    with exit_on_error():
        wanted = [p.name for p in inspect.signature(main).parameters.values() if p.kind != p.KEYWORD_ONLY]
        if len(words) != len(wanted):
            usage = " ".join(["python -m", main.__globals__["__spec__"].name, *(name.upper() for name in wanted)])
            raise UserError(f"{len(words)} words where the stage takes {len(wanted)}", usage)
        main(*words)
