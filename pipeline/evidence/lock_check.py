"""dvc.lock against the files: every command, setting, input and output of every stage, by the bytes that are here.

`dvc status` goes by size, time and inode; this reads every byte, so that it also finds what hides from that.
"""

import fnmatch
import json
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
        return sorted(path.as_posix() for path in files if not self._ignored(path))

    def _ignored(self, path: Path) -> bool:
        return any(fnmatch.fnmatchcase(part, pattern) for part in path.parts for pattern in self._patterns)

    @cached_property
    def _patterns(self) -> list[str]:
        ignore = self.root / IGNORED
        lines = ignore.read_text(encoding="utf-8").splitlines() if ignore.is_file() else []
        return [line for line in lines if line and not line.startswith("#")]


def check(disk: Disk, dag: Sequence[Stage], stages: dict[str, Any], *, data: bool = True) -> Iterator[Finding]:
    """Every stage's entry in dvc.lock, whose `stages` are given, then every file that dvc.yaml and some entry name.

    `data` false leaves out data/.
    """
    params = YAML(typ="safe", pure=True).load((disk.root / PARAMS).read_text(encoding="utf-8"))
    written: dict[str, Content] = {}
    read: dict[str, list[tuple[str, Content]]] = {}
    for stage in dag:
        entry = stages.get(stage.name)
        yield from _entry(disk, stage, entry, params)
        for path, content in _recorded(entry, "outs").items():
            if path in stage.outs:
                written[path] = content
                if data or not path.startswith("data/"):
                    yield _output(disk, path, content, stage)
        for path, content in _recorded(entry, "deps").items():
            if path in stage.deps:
                read.setdefault(path, []).append((stage.name, content))
    yield from _inputs(disk, read, written)


def _recorded(entry: dict[str, Any] | None, part: str) -> dict[str, Content]:
    """What an entry of dvc.lock has of the files and folders that its stage wrote (outs) or read (deps)."""
    found = (entry or {}).get(part, ())
    return {e["path"]: Content(str(e.get("md5")), e.get("size", -1), e.get("nfiles")) for e in found}


def _entry(disk: Disk, stage: Stage, entry: dict[str, Any] | None, params: dict[str, Any]) -> Iterator[Finding]:
    at = f"{LOCK}: {stage.name}"
    if entry is None:
        here = [out for out in stage.outs if disk.is_here(out)]
        why = "dvc.lock has no such stage: it has not run"
        yield wrong(at, f"{why}, and yet {here[0]} is here") if here else unchecked(at, why, "wrn-pipe repro runs it")
        return
    before = entry.get("params", {}).get(str(PARAMS), {})
    now = {name: _value(params, name) for name in stage.params}
    differences = []
    if entry.get("cmd") != stage.command:
        differences.append(f"its command is {entry.get('cmd')!r}, in dvc.yaml {stage.command!r}")
    for part, what, listed in (("deps", "inputs", stage.deps), ("outs", "outputs", stage.outs)):
        if set(_recorded(entry, part)) != set(listed):
            differences.append(f"its {what} are not those of dvc.yaml")
    changed = [name for name in sorted({*before, *now}) if before.get(name) != now.get(name)]
    if changed:
        differences.append(f"{', '.join(changed)}: not as {PARAMS} has it now")
    if differences:
        yield wrong(at, "; ".join(differences))
    else:
        yield right(at, "command, settings and names of inputs and outputs are those of dvc.yaml and params.yaml")


def _value(params: Any, name: str) -> Any:
    for part in name.split("."):
        params = params.get(part) if isinstance(params, dict) else None
    return params


def _output(disk: Disk, path: str, expected: Content, stage: Stage) -> Finding:
    if not disk.is_here(path):
        if path in stage.committed:
            return wrong(path, "is not here", f"git checkout {path}, or wrn-pipe repro {stage.name}")
        return unchecked(path, "not here", to_have(stage.name, disk.root))
    found = disk.content(path)
    if found == expected:
        return right(path, f"{found} as in dvc.lock")
    names = _differing(disk, path, expected)
    return wrong(names or path, f"{found}, where dvc.lock has {expected} as written by {stage.name}")


def _differing(disk: Disk, path: str, expected: Content) -> str:
    """The files of a folder that are not as its stage wrote them, as far as DVC's cache still lists these."""
    listing = disk.root / ".dvc/cache/files/md5" / expected.md5[:2] / expected.md5[2:]
    if expected.nfiles is None or not (disk.root / path).is_dir() or not listing.is_file():
        return ""
    if file_digest(listing, "md5") != expected.md5.removesuffix(".dir"):
        return ""
    before = {each["relpath"]: each["md5"] for each in json.loads(listing.read_text(encoding="utf-8"))}
    now = {name: disk.content(f"{path}/{name}").md5 for name in disk.names(path)}
    return ", ".join(f"{path}/{n}" for n in sorted({*before, *now}) if before.get(n) != now.get(n))


def _inputs(disk: Disk, read: dict[str, list[tuple[str, Content]]], written: dict[str, Content]) -> Iterator[Finding]:
    """What stages read, by path: against what other stages wrote there, and where none did against the files."""
    alike = 0
    for path, readers in read.items():
        if path not in written and not all(disk.is_here(out) for out in written if out.startswith(f"{path}/")):
            yield unchecked(path, "not all of it is here")
            continue
        if path not in written and not disk.is_here(path):
            yield wrong(path, f"is not here, and {readers[0][0]} reads it")
            continue
        found = written[path] if path in written else disk.content(path)
        unlike = [(stage, expected) for stage, expected in readers if expected != found]
        if not unlike:
            alike += 1
            continue
        stage, expected = unlike[0]
        more = f" and {len(unlike) - 1} more" if len(unlike) > 1 else ""
        if path in written:
            yield wrong(f"{LOCK}: {stage}", f"it read {path} as {expected}{more}, which was written as {found}")
        else:
            yield wrong(path, f"{found}, where dvc.lock has {expected} as read by {stage}{more}")
    yield right(LOCK, f"{alike} files and folders are as the stages read them")
