"""dvc.lock against the files: every command, setting, input and output of every stage, by the bytes that are here.

`dvc status` goes by size, time and inode; this reads every byte, so that it also finds what hides from that.
"""

import fnmatch
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML

from pipeline.data.fetch import file_digest
from pipeline.dvc_lock import LOCK, listing_md5
from pipeline.evidence.findings import Finding, right, unchecked, wrong
from pipeline.params import PARAMS
from pipeline.runner.dag import Stage
from pipeline.runner.remote import to_have

IGNORED = Path(".dvcignore")
CARD = "card.json"


@dataclass(frozen=True)
class Content:
    """What dvc.lock records of a file or folder."""

    md5: str
    size: int
    nfiles: int | None
    """None for a file."""

    def __str__(self) -> str:
        files = "" if self.nfiles is None else f" in {self.nfiles} files"
        return f"md5 {self.md5[:12]}, {self.size} bytes{files}"


@dataclass
class Disk:
    """The contents of the files here, each read once."""

    root: Path
    _files: dict[str, Content] = field(default_factory=dict)

    def is_here(self, path: str) -> bool:
        """A data folder of which only the card is here, as in a bundle, is not."""
        place = self.root / path
        return place.exists() and not (place.is_dir() and [p.name for p in place.iterdir()] == [CARD])

    def content(self, path: str) -> Content:
        """As DVC records it: the md5 of a file's bytes, or of a folder's list of names and md5s."""
        place = self.root / path
        if place.is_file():
            if path not in self._files:
                self._files[path] = Content(file_digest(place, "md5"), place.stat().st_size, None)
            return self._files[path]
        files = {name: self.content(f"{path}/{name}") for name in self.names(path)}
        md5 = listing_md5({name: file.md5 for name, file in files.items()})
        return Content(md5, sum(file.size for file in files.values()), len(files))

    def names(self, folder: str) -> list[str]:
        """The files in a folder that DVC counts, by their names below it."""
        here = self.root / folder
        files = (path.relative_to(here) for path in here.rglob("*") if path.is_file())
        ignored = [line for line in self._ignore if line and not line.startswith("#")]
        return sorted(
            path.as_posix()
            for path in files
            if not any(fnmatch.fnmatchcase(part, pattern) for part in path.parts for pattern in ignored)
        )

    @cached_property
    def _ignore(self) -> list[str]:
        ignore = self.root / IGNORED
        return ignore.read_text(encoding="utf-8").splitlines() if ignore.is_file() else []


def check(disk: Disk, dag: Sequence[Stage], stages: dict[str, Any], *, data: bool = True) -> Iterator[Finding]:
    """Every stage's entry in dvc.lock, whose `stages` are given, then every file that dvc.yaml and some entry name.

    `data` false leaves out data/.
    """
    params = YAML(typ="safe", pure=True).load((disk.root / PARAMS).read_text(encoding="utf-8"))
    records: dict[str, list[tuple[Stage, Content]]] = {}
    """By path what the stages recorded of it, in the order of dvc.yaml: who writes it first."""
    for stage in dag:
        entry = stages.get(stage.name)
        yield _entry(disk, stage, entry, params)
        for part, listed in (("outs", stage.outs), ("deps", stage.deps)):
            for path, content in _recorded(entry, part).items():
                if path in listed and (data or not path.startswith("data/")):
                    records.setdefault(path, []).append((stage, content))
    for path, told in records.items():
        yield _file(disk, path, told, [out for stage in dag for out in stage.outs if out.startswith(f"{path}/")])


def _recorded(entry: dict[str, Any] | None, part: str) -> dict[str, Content]:
    """What an entry of dvc.lock has of the files and folders that its stage wrote (outs) or read (deps)."""
    found = (entry or {}).get(part, ())
    return {e["path"]: Content(str(e.get("md5")), e.get("size", -1), e.get("nfiles")) for e in found}


def _entry(disk: Disk, stage: Stage, entry: dict[str, Any] | None, params: dict[str, Any]) -> Finding:
    at = f"{LOCK}: {stage.name}"
    if entry is None:
        here = [out for out in stage.outs if disk.is_here(out)]
        why = "dvc.lock has no such stage: it has not run"
        return wrong(at, f"{why}, and yet {here[0]} is here") if here else unchecked(at, why, "wrn-pipe repro runs it")
    before = entry.get("params", {}).get(str(PARAMS), {})
    now = {name: _value(params, name) for name in stage.params}
    differences = []
    if entry.get("cmd") != stage.command:
        differences.append(f"its command is {entry.get('cmd')!r}, in dvc.yaml {stage.command!r}")
    for part, what, listed in (("deps", "inputs", stage.deps), ("outs", "outputs", stage.outs)):
        if set(_recorded(entry, part)) != set(listed):
            differences.append(f"its {what} are not those of dvc.yaml")
    if changed := [name for name in sorted({*before, *now}) if before.get(name) != now.get(name)]:
        differences.append(f"{', '.join(changed)}: not as {PARAMS} has it now")
    if differences:
        return wrong(at, "; ".join(differences))
    return right(at, "command, settings and names of inputs and outputs are those of dvc.yaml and params.yaml")


def _value(params: Any, name: str) -> Any:
    for part in name.split("."):
        params = params.get(part) if isinstance(params, dict) else None
    return params


def _file(disk: Disk, path: str, told: Sequence[tuple[Stage, Content]], inside: Sequence[str]) -> Finding:
    """A file or folder against what stages `told` of it. `inside`: what others write in the folder."""
    stage = told[0][0]
    if not all(disk.is_here(out) for out in inside):
        return unchecked(path, "not all of it is here")
    if not disk.is_here(path):
        if path in stage.outs and path not in stage.committed:
            return unchecked(path, "not here", to_have(stage.name, disk.root))
        return wrong(path, "not found", f"git checkout {path}, or wrn-pipe repro {stage.name}")
    found = disk.content(path)
    unlike = [(stage, content) for stage, content in told if content != found]
    if not unlike:
        return right(path, f"{found} as in dvc.lock")
    stage, expected = unlike[0]
    how = "written" if path in stage.outs else "read"
    if len(unlike) == len(told):
        return wrong(path, f"{found}, where dvc.lock has {expected} as {how} by {stage.name}")
    return wrong(f"{LOCK}: {stage.name}", f"has {path} as {expected}, which is {found} here and in other entries")
