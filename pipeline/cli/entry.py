"""The command `wrn-pipe` as it is installed: main.py, but Ctrl-C while that is imported ends the process without a
traceback."""

import signal

_AT_START = signal.getsignal(signal.SIGINT)
if _AT_START is signal.default_int_handler:  # not where it is ignored, as behind nohup
    signal.signal(signal.SIGINT, signal.SIG_DFL)

from pipeline.cli import main as cli  # noqa: E402


def main() -> None:
    """See main.py."""
    signal.signal(signal.SIGINT, _AT_START)
    cli.main()
