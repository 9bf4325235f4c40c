"""What a result depends on: its fingerprint, and the state of the code that made it."""

import json
import subprocess
from functools import cache, lru_cache
from hashlib import file_digest, sha256
from importlib.metadata import version
from pathlib import Path
from typing import Any

from pipeline.errors import UserError
from pipeline.params import Plan, read_text, yaml_mapping

DAG = Path("dvc.yaml")
_REMEDY = f"git checkout {DAG}"


@cache
def _dag() -> dict[str, Any]:
    return yaml_mapping(read_text(DAG, _REMEDY), DAG, _REMEDY)


def dependencies(stage: str, key: str, item: dict[str, Any]) -> list[Path]:
    """The files and folders that dvc.yaml lists as dependencies of `stage`@`key`. Raises UserError without."""
    try:
        deps: list[str] = _dag()["stages"][stage]["do"]["deps"]
    except (KeyError, TypeError):
        raise UserError(f"{DAG} has no dependencies of the stage {stage}", _REMEDY) from None

    def fill(text: str) -> Path:
        text = text.replace("${key}", key)
        for name, value in item.items():
            text = text.replace(f"${{item.{name}}}", str(value))
        return Path(text)

    return [fill(dependency) for dependency in deps]


def fingerprint(plan: Plan, run_id: str) -> str:
    """sha256 over all that determines the run's weights: its settings and the content of its stage's dependencies.

    A folder of .beton files counts by its card, which pins their digests.
    """
    run = plan.run(run_id)
    settings: dict[str, Any] = {
        "run": run.model_dump(mode="json"),
        "protocol": plan.protocols[run.protocol].model_dump(mode="json"),
        "loading": plan.loading.model_dump(mode="json"),
        "device": plan.device,
        "kernels": plan.kernels,
    }
    content: dict[str, str] = {}
    for path in dependencies("train", run_id, settings["run"]):
        content |= digests_of(path)
    return sha256(json.dumps([settings, content], sort_keys=True).encode()).hexdigest()


def digests_of(path: Path) -> dict[str, str]:
    """The sha256 of a file, or of each file of a folder; of a folder of .beton files only of its card."""
    found = {}
    for file in _files(path):
        stat = file.stat()
        found[file.as_posix()] = _sha256(file, stat.st_mtime_ns, stat.st_size)
    return found


@lru_cache(maxsize=4096)
def _sha256(path: Path, mtime_ns: int, size: int) -> str:
    """A thousand runs depend on the same few files."""
    with path.open("rb") as stream:
        return file_digest(stream, "sha256").hexdigest()


def _files(path: Path) -> list[Path]:
    if path.is_file():
        return [path]
    if (card := path / "card.json").is_file():
        return [card]
    return sorted(p for p in path.rglob("*") if p.is_file() and "__pycache__" not in p.parts)


def commit(root: Path = Path()) -> tuple[str, bool]:
    """The commit checked out at `root`, and whether tracked files that no stage writes differ from it."""

    def git(*arguments: str) -> str:
        done = subprocess.run(["git", *arguments], cwd=root, capture_output=True, text=True, check=False)
        return done.stdout.strip() if done.returncode == 0 else ""

    head = git("rev-parse", "HEAD")
    made = (":!results", ":!dvc.lock", ":!models", ":!evaluations")
    changed = git("status", "--porcelain", "--untracked-files=no", "--", ".", *made)
    return head or "none", bool(changed)


def versions() -> dict[str, str]:
    """The packages whose version can change a result."""
    return {name: version(name) for name in ("torch", "numpy", "safetensors")}
