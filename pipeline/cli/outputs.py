"""Files that a user names to be written: never one that the repository lives by."""

import subprocess
from pathlib import Path

from pipeline.errors import UserError


def refuse_kept(to: Path, option: str) -> None:
    """Raise UserError when `to` is a file that git tracks, or lies where a stage reads or writes, or in git's store."""
    for place in {to.absolute(), to.resolve()}:  # a link, and what it leads to
        if why := _kept(place):
            raise UserError(f"{option} {to} {why}", f"write it under another name: {option} FILE")


def _kept(place: Path) -> str | None:
    from pipeline.dvc_lock import IGNORED, LOCK
    from pipeline.params import PARAMS
    from pipeline.runner.dag import DAG, stages

    if {".git", ".dvc"} & set(place.parts):
        return "is in the store of git or DVC"
    asked = ["git", "-C", str(place.parent), "--literal-pathspecs", "ls-files", "--error-unmatch", "--", place.name]
    if subprocess.run(asked, capture_output=True, check=False).returncode == 0:
        return "is a file that git tracks"
    root = Path.cwd()
    if place in {root / name for name in (PARAMS, DAG, LOCK, IGNORED)}:
        return "is a file of the pipeline"
    for stage in stages(root) if (root / DAG).is_file() else ():
        if any(place.is_relative_to(root / path) for path in (*stage.deps, *stage.outs)):
            return f"is what {stage.name} reads or writes"
    return None
