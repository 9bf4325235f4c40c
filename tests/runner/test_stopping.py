"""How a training hears a signal before its steps and while it speaks, by real signals to real processes."""

import os
import signal
import subprocess
import sys
import time

IMPORTING = """
import os, signal, sys, threading, time
from pipeline.errors import InterruptedTrainingError
from pipeline.runner.interruptions import stop_after_step, stop_training_at_once

def later():
    time.sleep(float(sys.argv[1]))
    os.kill(os.getpid(), signal.SIGTERM)

try:
    with stop_training_at_once("a-run"):
        threading.Thread(target=later).start()
        import pipeline.training.train_run
        with stop_after_step() as stop:
            until = time.monotonic() + 20
            while not stop and time.monotonic() < until:  # the steps
                time.sleep(0.01)
            sys.exit("after a step" if stop else "it was not heard")
except InterruptedTrainingError as error:
    sys.exit(error.what)
"""


def test_a_signal_while_torch_is_imported_is_not_lost() -> None:
    """torch takes what is raised there for a failure to load a library, and goes on without."""
    children = [
        subprocess.Popen([sys.executable, "-c", IMPORTING, str(delay)], stderr=subprocess.PIPE, text=True)
        for delay in (0.1, 0.4)
    ]
    said = [child.communicate(timeout=600)[1].strip().splitlines()[-1] for child in children]
    at_once = "SIGTERM: stopped before or after the training's steps, nothing is lost"
    assert set(said) <= {at_once, "after a step"}, said


WORKING = """
import os, signal, sys
from contextlib import contextmanager, suppress
from pipeline.errors import StoppedError
from pipeline.runner.interruptions import stop_at_once

def signalled():
    os.kill(os.getpid(), signal.SIGTERM)

@contextmanager
def cleaning():
    try:
        yield
    finally:
        with suppress(ValueError):  # an error of the clean-up's own
            try:
                raise ValueError
            finally:
                signalled()
        signalled()
        print("cleaned up")

class Dropping:
    def __del__(self):
        signalled()

sys.unraisablehook = lambda dropped: print("dropped", dropped.exc_type.__name__)
try:
    with stop_at_once(lambda: "nothing is left", "again"), cleaning():
        Dropping()
        print("goes on")
        signalled()
        print("goes on and on")
except StoppedError as error:
    print(error.what)
"""


def test_a_signal_is_heard_where_the_one_before_was_dropped_and_not_while_cleaning_up() -> None:
    done = subprocess.run([sys.executable, "-c", WORKING], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines() == [
        "dropped KeyboardInterrupt",
        "goes on",
        "cleaned up",
        "SIGTERM: stopped; nothing is left",
    ]


SPEAKING = """
import sys
from pipeline.progress import say
from pipeline.runner.interruptions import stop_after_step

with stop_after_step() as stop:
    for _ in range(1000):
        say("x" * 1000)
    sys.exit(f"asked by {stop}")
"""


def test_a_signal_while_nobody_takes_what_a_training_says_does_not_end_it() -> None:
    """As under a pager: Python lets no second line begin while the first is being written."""
    buffered = {name: value for name, value in os.environ.items() if name != "PYTHONUNBUFFERED"}
    command = [sys.executable, "-c", SPEAKING]
    with subprocess.Popen(command, env=buffered, stderr=subprocess.PIPE, text=True) as child:
        assert child.stderr is not None
        assert child.stderr.read(1) == "x"
        time.sleep(0.3)  # now the pipe is full
        child.send_signal(signal.SIGTERM)
        time.sleep(0.3)
        assert child.stderr.read().splitlines()[-1] == f"asked by {[int(signal.SIGTERM)]}"
