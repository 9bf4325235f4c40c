"""One thin module per stage, run by DVC as `python -m stages.NAME`."""

import signal
import sys

if sys.argv[0] == "-m":
    # Ctrl-C while a stage still imports what it needs ends it without a traceback; pipeline/runner/attempts.py then
    # sets how it is answered. Here, since nothing else of a stage runs before its imports.
    signal.signal(signal.SIGINT, signal.SIG_DFL)
