"""DVC's command line, for plans of hundreds of runs: `python -m pipeline.execution.quick_dvc status`.

DVC 3.67 parses params.yaml anew for every stage, up to three times, and then walks all of it for every key: with 300
runs `dvc status` takes a minute and a half of that. Here a file is parsed once, and a key is looked up. dvc.lock is
written by pipeline/execution/quick_lock.py. What DVC finds and writes is the same: tests/execution/test_quick_dvc.py.
"""

import sys
from copy import deepcopy
from functools import cache
from pathlib import Path
from typing import Any

import dvc.dependency.param as params
from dvc.cli import main
from dvc.dvcfile import Lockfile
from dvc.fs import LocalFileSystem

from pipeline.execution.quick_lock import dump_stages

_slow = params.read_param_file
_MISSING = object()
_PATTERN = set("*?[!")
"""What dpath, with which DVC looks for a key, takes for more than itself."""


def hasten() -> None:
    """Let DVC in this process read parameter files and write dvc.lock as described above."""
    params.read_param_file = _read_param_file
    Lockfile.dump_stages = dump_stages


def _read_param_file(fs: Any, path: str, key_paths: list[str] | None = None, flatten: bool = False, **more: Any) -> Any:
    plain = flatten and key_paths and not more and isinstance(fs, LocalFileSystem)
    if not plain or not Path(path).is_file():
        return _slow(fs, path, key_paths, flatten, **more)
    stat = Path(path).stat()
    content = _parsed(path, stat.st_mtime_ns, stat.st_size)
    found: dict[str, Any] = {}
    for key in key_paths or ():
        value = content
        for part in key.split("."):
            value = value.get(part, _MISSING) if isinstance(value, dict) else _MISSING
        if value is _MISSING or _PATTERN & set(key):  # absent, a position in a list, or a pattern
            found |= _slow(fs, path, [key], flatten)
        else:
            found[key] = deepcopy(value)  # else stages share it, and dvc.lock gets YAML's anchors for it
    return found


@cache
def _parsed(path: str, mtime_ns: int, size: int) -> Any:
    return params.load_path(path, LocalFileSystem())


if __name__ == "__main__":
    hasten()
    sys.exit(main(sys.argv[1:]))
