"""The command `wrn-pipe` as it is installed: main.py, but Ctrl-C while that is imported ends the process without a
traceback, and a checkout is worked on by its own code only."""

import os
import signal
from pathlib import Path

_AT_START = signal.getsignal(signal.SIGINT)
if _AT_START is signal.default_int_handler:  # not where it is ignored, as behind nohup
    signal.signal(signal.SIGINT, signal.SIG_DFL)

from pipeline.cli import main as cli  # noqa: E402
from pipeline.errors import UserError, exit_on_error  # noqa: E402


def main() -> None:
    """See main.py."""
    signal.signal(signal.SIGINT, _AT_START)
    with exit_on_error():
        _need_own_code(Path.cwd(), Path(__file__).parents[2])
    cli.main()


def _need_own_code(here: Path, code: Path) -> None:
    """Raise UserError where other code would run than the user thinks: in a checkout that has its own, and with modules
    before those of the lock file."""
    if path := os.environ.get("PYTHONPATH"):
        what = f"PYTHONPATH is {path}: what lies there comes before the packages of environment/requirements.lock"
        raise UserError(what, "unset PYTHONPATH")
    if (here / "pipeline/cli/entry.py").is_file() and not here.samefile(code):
        what = f"this wrn-pipe is that of {code}, and the current folder {here} has code of its own"
        raise UserError(what, f"source {here}/.venv/bin/activate, after: make setup")
