"""What a result depends on: its fingerprint, and the state of the code that made it."""

import json
import os
import re
import subprocess
from collections.abc import Sequence
from functools import lru_cache
from hashlib import file_digest
from importlib.metadata import version
from pathlib import Path
from typing import Any, Literal

from pipeline.artifacts import fingerprint_of
from pipeline.errors import UserError
from pipeline.params import Plan, read_text, yaml_mapping

DAG = Path("dvc.yaml")
_REMEDY = f"git checkout {DAG}"
_parsed = lru_cache(maxsize=4)(yaml_mapping)


def read_dvc_yaml(root: Path = Path()) -> dict[str, Any]:
    """dvc.yaml of the repository at `root`, its templates not filled in."""
    return _parsed(read_text(root / DAG, _REMEDY), DAG, _REMEDY)


def filled(value: Any, key: str, item: Any) -> Any:
    """What stands below `do` in dvc.yaml, of one entry of what `foreach` names. Raises KeyError for another template.

    DVC's own way of doing it is not an interface, and takes seconds with hundreds of runs."""
    known = {"key": key, "item": item}
    if isinstance(item, dict):
        known |= {f"item.{name}": setting for name, setting in item.items()}
    words = {name: json.dumps(str(setting))[1:-1] for name, setting in known.items()}
    return json.loads(re.sub(r"\$\{(.*?)\}", lambda template: words[template[1]], json.dumps(value)))


def dependencies(stage: str, key: str, item: dict[str, Any]) -> list[Path]:
    """The files and folders that dvc.yaml lists as dependencies of `stage`@`key`."""
    deps: list[str] = filled(read_dvc_yaml()["stages"][stage]["do"]["deps"], key, item)
    return [Path(path) for path in deps]


def fingerprint(plan: Plan, run_id: str) -> str:
    """sha256 over all that determines the run's weights: its `inputs`."""
    return fingerprint_of(*inputs(plan, run_id))


def inputs(plan: Plan, run_id: str) -> tuple[dict[str, Any], dict[str, str]]:
    """A run's settings, and its `content_of`."""
    run = plan.run(run_id)
    parts = {"run": run, "protocol": plan.protocols[run.protocol], "loading": plan.loading}
    settings: dict[str, Any] = {name: part.model_dump(mode="json") for name, part in parts.items()}
    settings |= {"device": plan.device, "kernels": plan.kernels}
    return settings, content_of(run_id, settings["run"])


def content_of(run_id: str, run: dict[str, Any]) -> dict[str, str]:
    """File by file the sha256 of what the training of `run` depends on, in the current folder."""
    paths = dependencies("train", run_id, run)
    return {file: digest for path in paths for file, digest in digests_of(path).items()}


def digests_of(path: Path) -> dict[str, str]:
    """The sha256 of a file, or of each file of a folder; of .beton files only of their card, which pins theirs."""
    if (card := path / "card.json").is_file():
        files = [card]
    elif path.is_file():
        files = [path]
    else:
        files = sorted(p for p in path.rglob("*") if p.is_file() and "__pycache__" not in p.parts)
    stats = {file: file.stat() for file in files}
    return {file.as_posix(): _sha256(file, stat.st_mtime_ns, stat.st_size) for file, stat in stats.items()}


@lru_cache(maxsize=4096)
def _sha256(path: Path, mtime_ns: int, size: int) -> str:
    """A thousand runs depend on the same few files."""
    with path.open("rb") as stream:
        return file_digest(stream, "sha256").hexdigest()


def git(*words: str, root: Path = Path()) -> str:
    """What git says at `root`; nothing where it fails."""
    done = _git(words, root)
    return done.stdout if done.returncode == 0 else ""


def _git(words: Sequence[str], root: Path) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        ["git", *words], cwd=root, env={**os.environ, "LC_ALL": "C"}, capture_output=True, text=True, check=False
    )


def commit(root: Path = Path()) -> tuple[str, bool | Literal["unknown"]]:
    """The commit checked out at `root`, and whether tracked files that no stage writes differ from it: `none` without
    a commit, `unknown` where git does not tell, as of a checkout of another user."""
    asked = _git(["rev-parse", "--verify", "HEAD"], root)
    if asked.returncode != 0:
        without = any(words in asked.stderr for words in ("not a git repository", "Needed a single revision"))
        return ("none", False) if without else ("unknown", "unknown")
    made = (":!results", ":!dvc.lock", ":!models", ":!evaluations", ":!evidence")
    return asked.stdout.strip(), bool(git("status", "--porcelain", "--untracked-files=no", "--", ".", *made, root=root))


def need_commit() -> tuple[str, bool]:
    """The same of the current folder. Raises UserError where there is none, or git does not tell."""
    head, dirty = commit()
    if isinstance(dirty, str):
        fix = f"git status says why; of another user's checkout: git config --global --add safe.directory {Path.cwd()}"
        raise UserError("git does not tell this folder's commit", fix)
    if head == "none":
        raise UserError("this folder has no commit", "git init, git add -A and git commit, or clone the repository")
    return head, dirty


def versions() -> dict[str, str]:
    """The packages whose version can change a result."""
    return {name: version(name) for name in ("torch", "numpy", "safetensors")}
