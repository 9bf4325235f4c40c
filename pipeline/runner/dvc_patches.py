"""DVC's command line, for plans of hundreds of runs: `python -m pipeline.runner.dvc_patches status`.

DVC 3.67 parses params.yaml anew for every stage, up to three times, and then walks all of it for every key: with 300
runs `dvc status` takes a minute and a half of that. It parses dvc.yaml and dvc.lock anew for every target: 3 s for each
with 400 runs. Here a file is parsed once, and a key is looked up. pipeline/runner/quick_lock.py writes dvc.lock, and
records_cache.py lets DVC's caches hold what git has of a run.
A zombie holds no path in use. What DVC finds and writes is the same: tests/runner/test_dvc_patches.py.
"""

import gc
import signal
import sys

if __name__ == "__main__":
    # A tenth of the time of a repro with nothing to do went into looking for garbage among what is imported.
    gc.disable()
    # DVC answers Ctrl-C once it is imported. Until then it ends this process without a traceback.
    signal.signal(signal.SIGINT, signal.SIG_DFL)

from copy import deepcopy
from functools import cache, lru_cache
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import dvc.dependency.param as params
from dvc import dvcfile, rwlock
from dvc.cli import main
from dvc.fs import LocalFileSystem

from pipeline.runner.child_processes import is_alive
from pipeline.runner.quick_lock import dump_stages
from pipeline.runner.records_cache import keep_records

_slow, _slow_file = params.read_param_file, dvcfile.load_file
Stamp = tuple[int, int, int] | None
_MISSING = object()
_PATTERN = set("*?[!")
"""What dpath, with which DVC looks for a key, takes for more than itself."""


def hasten() -> None:
    """Let DVC in this process read params.yaml, dvc.yaml and dvc.lock, and write dvc.lock, as described above."""
    params.read_param_file = _read_param_file
    rwlock.psutil = SimpleNamespace(pid_exists=is_alive)  # a killed DVC may stay a zombie for long
    dvcfile.load_file = _load_file
    dvcfile.Lockfile.dump_stages = dump_stages
    keep_records()


def _read_param_file(fs: Any, path: str, key_paths: list[str] | None = None, flatten: bool = False, **more: Any) -> Any:
    plain = flatten and key_paths and not more and isinstance(fs, LocalFileSystem)
    if not plain or not Path(path).is_file():
        return _slow(fs, path, key_paths, flatten, **more)
    content = _parsed(path, _stamp(Path(path)))
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
def _parsed(path: str, stamp: Stamp) -> Any:
    return params.load_path(path, LocalFileSystem())


def _load_file(repo: Any, path: Any, **options: Any) -> Any:
    if options or Path(path).name != dvcfile.PROJECT_FILE or not isinstance(repo.fs, LocalFileSystem):
        return _slow_file(repo, path, **options)
    # All that its stages and what is recorded of them are read from.
    files = (
        Path(path),
        Path(path).with_suffix(".lock"),
        Path(path).with_name(params.ParamsDependency.DEFAULT_PARAMS_FILE),
    )
    return _project(repo, path, tuple(_stamp(file) for file in files))


@lru_cache(maxsize=1)
def _project(repo: Any, path: Any, stamps: tuple[Stamp, ...]) -> Any:
    return _slow_file(repo, path)


def _stamp(path: Path) -> Stamp:
    """Another one when the file is another: DVC and we write in this process as well."""
    if not path.is_file():
        return None
    stat = path.stat()
    return stat.st_mtime_ns, stat.st_size, stat.st_ino


if __name__ == "__main__":
    hasten()
    gc.freeze()
    gc.enable()
    signal.signal(signal.SIGINT, signal.default_int_handler)
    sys.exit(main(sys.argv[1:]))
