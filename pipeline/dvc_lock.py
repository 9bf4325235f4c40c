"""dvc.lock, read: what DVC has recorded of each stage that ran."""

import fnmatch
import hashlib
import json
import shutil
import subprocess
from pathlib import Path
from typing import Any

from pipeline.errors import UserError
from pipeline.params import read_text, yaml_mapping

LOCK, IGNORED = Path("dvc.lock"), Path(".dvcignore")
_REMEDY = f"settle the conflict there, if it has one, or git checkout {LOCK}"


def locked(text: str) -> dict[str, Any]:
    """The stages of a dvc.lock, by their names. Raises UserError with the line of a conflict."""
    stages: dict[str, Any] = yaml_mapping(text, LOCK, _REMEDY).get("stages", {}) if text else {}
    return stages


def read(root: Path = Path()) -> dict[str, Any]:
    """The stages of the repository at `root`; none where no stage has run yet. Raises as `locked` and `content` do."""
    return locked(content(root))


def content(root: Path = Path()) -> str:
    """Of the file; empty where no stage has run yet.

    Raises UserError for one that git tracks and is not here: all would be trained again.
    """
    if (root / LOCK).exists():
        return read_text(root / LOCK, _REMEDY)
    tracked = subprocess.run(["git", "ls-files", "--error-unmatch", LOCK], cwd=root, capture_output=True, check=False)
    if tracked.returncode == 0:
        raise UserError(
            f"{root / LOCK} not found, though git has it: nothing would count as done",
            f"git checkout {LOCK}; or, to start over, git rm --cached {LOCK}",
        )
    return ""


def md5(path: str) -> str:
    """As it is recorded there: of a file's bytes, or of a folder's list of names and md5s, and `.dir`."""
    if Path(path).is_file():
        with Path(path).open("rb") as file:
            return hashlib.file_digest(file, "md5").hexdigest()
    listed = [{"md5": md5(f"{path}/{name}"), "relpath": name} for name in names(path)]
    return hashlib.md5(json.dumps(listed, sort_keys=True).encode(), usedforsecurity=False).hexdigest() + ".dir"


def names(folder: str) -> list[str]:
    """The files in a folder that DVC counts, by their names below it."""
    lines = IGNORED.read_text(encoding="utf-8").splitlines() if IGNORED.is_file() else []
    ignored = [line for line in lines if line and not line.startswith("#")]
    files = (path.relative_to(folder) for path in Path(folder).rglob("*") if path.is_file())
    return sorted(
        path.as_posix()
        for path in files
        if not any(fnmatch.fnmatchcase(part, pattern) for part in path.parts for pattern in ignored)
    )


def need_first_content(stage: str, folder: Path) -> None:
    """Raise UserError, and remove `folder`, unless it is what `stage` wrote at its first run, as far as dvc.lock tells.

    For content that no digest pins.
    """
    for out in read().get(stage, {}).get("outs", ()):
        if out["path"] == str(folder) and (found := md5(str(folder))) != out["md5"]:
            shutil.rmtree(folder)
            pinned = f"{LOCK} has {out['md5']} since its first use"
            raise UserError(
                f"{folder}: wrong content: md5 {found}, {pinned}",
                f"learn which of them is right; if it is this one, take {stage} out of {LOCK} and repeat the command",
            )
