"""Which stages DVC runs right now, read from the note that it keeps of the paths in use."""

import json
from contextlib import suppress
from pathlib import Path

import psutil

from pipeline.runner.child_processes import is_alive
from pipeline.runner.dag import Stage

RWLOCK = Path(".dvc/tmp/rwlock")


def running_stages(stages: dict[str, Stage]) -> dict[str, int]:
    """Name -> process id of the DVC on this machine that runs it. Its outputs are not to be read meanwhile."""
    written: dict[str, int] = {}
    with suppress(FileNotFoundError, ValueError):  # DVC rewrites the file in place: a torn read is as good as none
        for path, info in json.loads(RWLOCK.read_text(encoding="utf-8")).get("write", {}).items():
            if is_alive(info["pid"]):
                with suppress(ValueError):
                    written[Path(path).relative_to(Path.cwd()).as_posix()] = info["pid"]
    return {stage.name: written[path] for stage in stages.values() for path in stage.outs[:1] if path in written}


def waits_for_lock(pid: int) -> bool:
    """Whether this DVC bears that another one holds its lock: without --wait-for-lock it throws a result away."""
    with suppress(psutil.NoSuchProcess, psutil.AccessDenied):
        return "--wait-for-lock" in psutil.Process(pid).cmdline()
    return True  # it has ended
