"""Which stages DVC runs right now, read from the note that it keeps of the paths in use, and their processes."""

import json
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

import psutil

if TYPE_CHECKING:
    from pipeline.runner.dag import Stage  # which takes longer to import than DVC's patches have

RWLOCK = Path(".dvc/tmp/rwlock")


def is_alive(pid: int) -> bool:
    """Whether that process can still do anything: not a zombie, which has ended and waits for its parent to notice."""
    with suppress(psutil.NoSuchProcess):
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    return False


def running_stages(stages: "dict[str, Stage]") -> dict[str, int]:
    """Name -> process id of the DVC on this machine that runs it. Its outputs are not to be read meanwhile."""
    written: dict[Path, int] = {}
    with suppress(FileNotFoundError, ValueError):  # DVC rewrites the file in place: a torn read is as good as none
        rwlock = json.loads(RWLOCK.read_text(encoding="utf-8"))
        written = {Path(path): info["pid"] for path, info in rwlock.get("write", {}).items() if is_alive(info["pid"])}
    first_outs = {stage.name: Path.cwd() / stage.outs[0] for stage in stages.values() if stage.outs}
    return {name: written[out] for name, out in first_outs.items() if out in written}


def waits_for_lock(pid: int) -> bool:
    """Whether this DVC bears that another one holds its lock: without --wait-for-lock it throws a result away."""
    with suppress(psutil.NoSuchProcess, psutil.AccessDenied):
        return "--wait-for-lock" in psutil.Process(pid).cmdline()
    return True  # it has ended


def stage_processes(pid: int) -> set[psutil.Process]:
    """All processes below `pid` that run `python -m stages.NAME`: not DVC."""
    found = set()
    with suppress(psutil.NoSuchProcess):
        for process in psutil.Process(pid).children(recursive=True):
            with suppress(psutil.NoSuchProcess):  # it has ended meanwhile, or is a zombie
                if any(word.startswith("stages.") for word in process.cmdline()[:3]):
                    found.add(process)
    return found
