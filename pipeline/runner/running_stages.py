"""Which stages DVC runs right now, read from the note that it keeps of the paths in use."""

import json
from collections.abc import Collection
from contextlib import suppress
from pathlib import Path

import psutil

from pipeline.dvc_lock import read
from pipeline.runner.dag import Stage
from pipeline.runner.dvc import changes, reasons

RWLOCK = Path(".dvc/tmp/rwlock")


def running_stages(stages: dict[str, Stage]) -> dict[str, int]:
    """Name -> process id of the DVC on this machine that runs it. Its outputs are not to be read meanwhile."""
    written: dict[str, int] = {}
    with suppress(FileNotFoundError, ValueError):  # DVC rewrites the file in place: a torn read is as good as none
        for path, info in json.loads(RWLOCK.read_text(encoding="utf-8")).get("write", {}).items():
            if psutil.pid_exists(info["pid"]):
                with suppress(ValueError):
                    written[Path(path).relative_to(Path.cwd()).as_posix()] = info["pid"]
    return {stage.name: written[path] for stage in stages.values() for path in stage.outs[:1] if path in written}


def ask(stages: Collection[Stage], running: Collection[str], wait: bool) -> dict[str, list[str]]:
    """Stage -> why DVC calls it out of date. Raises as `changes` does.

    DVC refuses to look at what a running stage writes, so it is not asked about those nor about what needs them. Of a
    stage that has never run it says that all its inputs were edited.
    """
    free = [stage.name for stage in stages if stage.name not in running and not stage.needs & set(running)]
    changed = changes(free, wait) if free else {}
    ran = read() if changed else {}
    return {name: reasons(change) if name in ran else ["it never ran here"] for name, change in changed.items()}


def waits_for_lock(pid: int) -> bool:
    """Whether this DVC bears that another one holds its lock: without --wait-for-lock it throws a result away."""
    with suppress(psutil.NoSuchProcess, psutil.AccessDenied):
        return "--wait-for-lock" in psutil.Process(pid).cmdline()
    return True  # it has ended
