"""dvc.lock, read: what DVC has recorded of each stage that ran."""

import hashlib
import json
import shutil
import subprocess
from collections.abc import Mapping
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


def folder_md5(folder: Path) -> str:
    """What dvc.lock records of a folder: md5 over the list of its files with their md5s, and `.dir`."""
    md5s = {}
    for path in filter(Path.is_file, folder.rglob("*")):
        with path.open("rb") as file:
            md5s[path.relative_to(folder).as_posix()] = hashlib.file_digest(file, "md5").hexdigest()
    return listing_md5(md5s)


def listing_md5(md5s: Mapping[str, str]) -> str:
    """The same of a folder with files of these names and md5s."""
    listed = [{"md5": md5s[name], "relpath": name} for name in sorted(md5s)]
    return hashlib.md5(json.dumps(listed, sort_keys=True).encode(), usedforsecurity=False).hexdigest() + ".dir"


def need_first_content(stage: str, folder: Path) -> None:
    """Raise UserError, and remove `folder`, unless it is what `stage` wrote at its first run, as far as dvc.lock tells.

    For content that no digest pins.
    """
    for out in read().get(stage, {}).get("outs", ()):
        if out["path"] == str(folder) and (found := folder_md5(folder)) != out["md5"]:
            shutil.rmtree(folder)
            pinned = f"{LOCK} has {out['md5']} since its first use"
            raise UserError(
                f"{folder}: wrong content: md5 {found}, {pinned}",
                f"learn which of them is right; if it is this one, take {stage} out of {LOCK} and repeat the command",
            )
