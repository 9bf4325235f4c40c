"""Not a test: imports the train stage once, then forks a process for each attempt, and kills it where it is told to.

Reads one JSON attempt a line from stdin: {"run", "options", "kill"}, and answers with {"status", "calls"}: the exit
status as os.waitstatus_to_exitcode gives it, and how many file system calls the attempt made before it ended. `kill`:
    {"seconds": s}     SIGKILL from here after so long
    {"call": k, "before": bool}  SIGKILL to itself before or after the k-th call that changes the file system, from 1
    {"bytes": n}       the kernel's SIGXFSZ in the middle of the write that makes a file longer than n bytes
    null               not at all
"""

import json
import os
import resource
import signal
import sys
import tempfile
import time
from collections.abc import Callable
from typing import Any

import mlflow  # noqa: F401
import torch

import pipeline.tracking.sync  # noqa: F401
from pipeline.errors import exit_on_error
from pipeline.training.device import prepare
from stages.train import main

CALLS = ("fsync", "replace", "unlink", "rmdir", "mkdir")


def arm(kill: dict[str, Any], counter: int) -> None:
    """In the child: count the calls in the file `counter`, and set the trap."""
    done = 0

    def counted(call: Callable[..., Any]) -> Callable[..., Any]:
        def wrapped(*arguments: Any, **more: Any) -> Any:
            nonlocal done
            done += 1
            os.pwrite(counter, done.to_bytes(4, "little"), 0)
            if kill.get("call") == done and kill["before"]:
                os.kill(os.getpid(), signal.SIGKILL)
            mine = done
            try:
                return call(*arguments, **more)
            finally:
                if kill.get("call") == mine:
                    os.kill(os.getpid(), signal.SIGKILL)

        return wrapped

    for name in CALLS:
        setattr(os, name, counted(getattr(os, name)))
    if "bytes" in kill:
        signal.signal(signal.SIGXFSZ, signal.SIG_DFL)  # Python ignores it
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        resource.setrlimit(resource.RLIMIT_FSIZE, (kill["bytes"], kill["bytes"]))


def attempt(run: str, options: dict[str, Any], kill: dict[str, Any] | None) -> dict[str, int]:
    with tempfile.TemporaryFile() as counter:
        child = os.fork()
        if child == 0:
            code = 1
            try:
                arm(kill or {}, counter.fileno())
                with exit_on_error():
                    main(run, **options)
                code = 0
            except SystemExit as end:
                code = int(end.code or 0)
            finally:
                sys.stderr.flush()
                os._exit(code)
        if kill and "seconds" in kill:
            time.sleep(kill["seconds"])
            os.kill(child, signal.SIGKILL)  # a child that has ended is still ours to wait for
        _, status = os.waitpid(child, 0)
        counter.seek(0)
        return {"status": os.waitstatus_to_exitcode(status), "calls": int.from_bytes(counter.read(4), "little")}


# Loads what each attempt would load, as the two unused imports above do. The store's address is refused.
prepare(torch.device("cpu"))
torch.set_num_threads(1)  # no thread pool yet, so that forking is safe
for line in sys.stdin:
    print(json.dumps(attempt(**json.loads(line))), flush=True)
