"""DVC's caches for stages of which git keeps some files and DVC the others, such as run.json beside weights.

DVC 3.67 has no run cache for a stage with an out `cache: false` that is neither metric nor plot. It restores what a
stage made only where its cache holds all outs, those of git too, and `dvc push --run-cache` pushes none of these. So a
training would run again when an edit is taken back, in a clone whose cache has the weights, and where workers share
results by a remote. Here the files that git keeps go into the cache as well, where DVC itself puts such metrics.
"""

from typing import Any

from dvc.stage import Stage
from dvc.stage.cache import StageCache
from dvc.stage.serialize import to_single_stage_lockfile
from dvc_data.hashfile.hash_info import HashInfo

_run, _save, _push = Stage.run, Stage.save, StageCache.push


def keep_records() -> None:
    """Let DVC in this process do as described above."""
    Stage.run, Stage.save, StageCache.push = run, save, push


def run(stage: Stage, dry: bool = False, **options: Any) -> None:
    """In place of Stage.run, which removes all outs before it looks whether a cache has them."""
    if not dry and _is_mixed(stage) and all(out.hash_info for out in stage.outs):
        for out in stage.repo.stage_cache._uncached_outs(stage, to_single_stage_lockfile(stage)):
            if out.exists and not out.changed_checksum():
                out.commit()
    _run(stage, dry=dry, **options)


def save(stage: Stage, allow_missing: bool = False, run_cache: bool = True) -> None:
    """In place of Stage.save."""
    _save(stage, allow_missing=allow_missing, run_cache=run_cache or _is_mixed(stage))


def push(cache: StageCache, remote: str | None, odb: Any = None) -> list[tuple[str, str]]:
    """In place of StageCache.push: its entries, and the files that git keeps of what these made."""
    entries: list[tuple[str, str]] = _push(cache, remote, odb)
    small = {out.def_path for stage in cache.repo.index.stages if _is_mixed(stage) for out in _in_git(stage)}
    outs = [out for key, value in entries for out in (cache._load_cache(key, value) or {}).get("outs", ())]
    cache.repo.cloud.push({HashInfo("md5", out["md5"]) for out in outs if out["path"] in small}, remote=remote)
    return entries


def _in_git(stage: Stage) -> list[Any]:
    return [out for out in stage.outs if not out.use_cache]


def _is_mixed(stage: Stage) -> bool:
    return 0 < len(_in_git(stage)) < len(stage.outs)
