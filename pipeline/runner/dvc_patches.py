"""DVC's command line, for plans of hundreds of runs: `python -m pipeline.runner.dvc_patches status`.

- DVC 3.67 parses params.yaml for every stage and walks all of it for every key, and parses dvc.yaml and dvc.lock for
  every target: minutes with 300 runs. Here a file is parsed once, and a key is looked up.
- It parses and writes all of dvc.lock after every stage, in pure Python: 40 s with 400 runs. Here the text of the
  stages that are written is replaced, and the text of all others stays. `record` writes many stages at once.
- It has no run cache for a stage with an out `cache: false` that is neither metric nor plot. So a training would run
  again when an edit is taken back, in a clone whose cache has the weights, and where workers share results by a remote.
  Here the files that git keeps go into the cache as well, where DVC itself puts such metrics.
- A zombie holds no path in use.

What DVC finds and writes is the same: tests/runner/test_dvc_patches.py.
"""

import gc
import signal
import sys

if __name__ == "__main__":
    # A tenth of the time of a repro with nothing to do went into looking for garbage among what is imported.
    gc.disable()
    # DVC answers Ctrl-C once it is imported. Until then it ends this process without a traceback.
    signal.signal(signal.SIGINT, signal.SIG_DFL)

import atexit
import os
import re
import shutil
import tempfile
from collections.abc import Iterable
from copy import deepcopy
from functools import cache, lru_cache, reduce
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import dvc.dependency.param as params
from dvc import dvcfile, rwlock
from dvc.cli import main
from dvc.dvcfile import Lockfile
from dvc.fs import LocalFileSystem
from dvc.repo import Repo, lock_repo
from dvc.repo.reproduce import plan_repro
from dvc.stage import Stage
from dvc.stage.cache import StageCache
from dvc.stage.serialize import to_lockfile, to_single_stage_lockfile
from dvc.utils.serialize import dumps_yaml
from dvc_data.hashfile.hash_info import HashInfo

from pipeline.atomic_write import new_file
from pipeline.runner.interruptions import is_alive

# Functions below have the place of these, and their names.
_read_param_file, _load_file = params.read_param_file, dvcfile.load_file
_run, _save, _push = Stage.run, Stage.save, StageCache.push


def read_param_file(fs: Any, path: str, key_paths: list[str] | None = None, flatten: bool = False, **more: Any) -> Any:
    plain = flatten and key_paths and not more and isinstance(fs, LocalFileSystem)
    if not plain or not Path(path).is_file():
        return _read_param_file(fs, path, key_paths, flatten, **more)
    content = _parsed(path, _stamp(Path(path)))
    found: dict[str, Any] = {}
    for key in key_paths or ():
        try:
            value = reduce(_entry, key.split("."), content)
            found[key] = deepcopy(value)  # else stages share it, and dvc.lock gets YAML's anchors for it
        except KeyError:  # absent, a position in a list, or a pattern
            found |= _read_param_file(fs, path, [key], flatten)
    return found


def _entry(value: Any, part: str) -> Any:
    if not isinstance(value, dict) or set("*?[!") & set(part):
        raise KeyError(part)
    return value[part]


@cache
def _parsed(path: str, stamp: Any) -> Any:
    return params.load_path(path, LocalFileSystem())


def load_file(repo: Any, path: Any, **options: Any) -> Any:
    if options or Path(path).name != dvcfile.PROJECT_FILE or not isinstance(repo.fs, LocalFileSystem):
        return _load_file(repo, path, **options)
    # All that its stages and what is recorded of them are read from.
    files = (path, Path(path).with_suffix(".lock"), Path(path).with_name(params.ParamsDependency.DEFAULT_PARAMS_FILE))
    return _project(repo, path, tuple(_stamp(Path(file)) for file in files))


@lru_cache(maxsize=1)
def _project(repo: Any, path: Any, stamps: Any) -> Any:
    return _load_file(repo, path)


def _stamp(path: Path) -> tuple[int, int, int] | None:
    """Another one when the file is another: DVC and we write in this process as well."""
    if not path.is_file():
        return None
    stat = path.stat()
    return stat.st_mtime_ns, stat.st_size, stat.st_ino


def dump_stages(file: Lockfile, stages: Iterable[Stage], **options: Any) -> None:
    path = Path(file.path)
    before = path.read_text(encoding="utf-8").rstrip() + "\n" if path.is_file() else "schema: '2.0'\nstages:\n"
    after = spliced(before, {stage.name: to_lockfile(stage, **options) for stage in stages})
    if after != before:
        new_file(path, after.encode())
        file.repo.scm_context.track_file(file.relpath)


def spliced(text: str, stages: dict[str, dict[str, Any]]) -> str:
    """`text`, a dvc.lock, with `stages`: name -> {name: what is recorded of it}."""
    for name, recorded in stages.items():
        entry = dumps_yaml({"stages": recorded}).removeprefix("stages:\n")
        place = re.search(rf"^  {re.escape(name)}:\n((    .*)?\n)*", text, re.MULTILINE)
        start, end = place.span() if place else (len(text), len(text))
        text = text[:start] + entry + text[end:]
    return text


def run(stage: Stage, dry: bool = False, **options: Any) -> None:
    """DVC's removes all outs before it looks whether a cache has them."""
    if not dry and _is_mixed(stage) and all(out.hash_info for out in stage.outs):
        for out in stage.repo.stage_cache._uncached_outs(stage, to_single_stage_lockfile(stage)):
            if out.exists and not out.changed_checksum():
                out.commit()
    _run(stage, dry=dry, **options)


def save(stage: Stage, allow_missing: bool = False, run_cache: bool = True) -> None:
    _save(stage, allow_missing=allow_missing, run_cache=run_cache or _is_mixed(stage))


def push(cache: StageCache, remote: str | None, odb: Any = None) -> list[tuple[str, str]]:
    """DVC's entries, and the files that git keeps of what these made."""
    entries: list[tuple[str, str]] = _push(cache, remote, odb)
    mixed = filter(_is_mixed, cache.repo.index.stages)
    small = {out.def_path for stage in mixed for out in stage.outs if not out.use_cache}
    outs = [out for key, value in entries for out in (cache._load_cache(key, value) or {}).get("outs", ())]
    cache.repo.cloud.push({HashInfo("md5", out["md5"]) for out in outs if out["path"] in small}, remote=remote)
    return entries


def _is_mixed(stage: Stage) -> bool:
    return len({out.use_cache for out in stage.outs}) == 2


def record(names: Iterable[str]) -> None:
    """As `dvc commit --force` for each of these stages, in the order in which `dvc repro` runs them, but dvc.lock is
    written once: 2 s a stage with 80 runs else. Raises DvcException for an output that is not there, and KeyError for
    an unknown stage; nothing is recorded then."""
    wanted = set(names)
    with Repo(_wait_for_lock=True) as repo, lock_repo(repo), repo.scm_context:
        stages = [stage for stage in plan_repro(repo.index.graph) if stage.addressing in wanted]
        if unknown := wanted - {stage.addressing for stage in stages}:
            raise KeyError(", ".join(sorted(unknown)))
        for stage in stages:
            stage.save()
        for stage in stages:
            stage.commit()
        if stages:
            stages[0].dvcfile.dump_stages(stages, update_pipeline=False)


if __name__ == "__main__":
    params.read_param_file, dvcfile.load_file, Lockfile.dump_stages = read_param_file, load_file, dump_stages
    Stage.run, Stage.save, StageCache.push = run, save, push
    rwlock.psutil = SimpleNamespace(pid_exists=is_alive)  # a killed DVC may stay a zombie for long
    if not os.access(".dvc", os.W_OK):  # somebody else's checkout, which is looked at
        Repo.tmp_dir, Repo._ignore = tempfile.mkdtemp(prefix="wrn-pipe-"), lambda repo: None
        atexit.register(shutil.rmtree, Repo.tmp_dir)
    gc.freeze()
    gc.enable()
    signal.signal(signal.SIGINT, signal.default_int_handler)
    if "record" in sys.argv[1:3]:
        record(sys.stdin.read().split())
    else:
        sys.exit(main(sys.argv[1:]))
