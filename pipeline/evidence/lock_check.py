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


def recorded(entry: dict[str, Any]) -> Content:
    """The content that a dep or out of dvc.lock should have."""
    return Content(str(entry.get("md5")), entry.get("size", -1), entry.get("nfiles"))


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
    for stage in dag:
        yield from _entry(disk, stage, stages.get(stage.name), params)
    known = [(stage, stages[stage.name]) for stage in dag if stage.name in stages]
    outs = {
        e["path"]: (recorded(e), stage)
        for stage, body in known
        for e in body.get("outs", ())
        if e["path"] in stage.outs
    }
    deps = [
        (e["path"], recorded(e), stage.name)
        for stage, body in known
        for e in body.get("deps", ())
        if e["path"] in stage.deps
    ]
    for path, (expected, stage) in outs.items():
        if data or not path.startswith("data/"):
            yield _output(disk, path, expected, stage)
    yield from _inputs(disk, deps, {path: expected for path, (expected, _) in outs.items()})


def _entry(disk: Disk, stage: Stage, entry: dict[str, Any] | None, params: dict[str, Any]) -> Iterator[Finding]:
    at = f"{LOCK}: {stage.name}"
    if entry is None:
        here = [out for out in stage.outs if disk.is_here(out)]
        why = "dvc.lock has no such stage: it has not run"
        yield wrong(at, f"{why}, and yet {here[0]} is here") if here else unchecked(at, why, "wrn-pipe repro runs it")
        return
    before = entry.get("params", {}).get(str(PARAMS), {})
    now = {name: _value(params, name) for name in stage.params}
    differences = [
        what
        for what, same in (
            (f"its command is {entry.get('cmd')!r}, in dvc.yaml {stage.command!r}", entry.get("cmd") == stage.command),
            ("its inputs are not those of dvc.yaml", _paths(entry, "deps") == sorted(stage.deps)),
            ("its outputs are not those of dvc.yaml", _paths(entry, "outs") == sorted(stage.outs)),
        )
        if not same
    ]
    changed = [name for name in sorted({*before, *now}) if before.get(name) != now.get(name)]
    if changed:
        differences.append(f"{', '.join(changed)}: not as {PARAMS} has it now")
    if differences:
        yield wrong(at, "; ".join(differences))
    else:
        yield right(at, "command, settings and names of inputs and outputs are those of dvc.yaml and params.yaml")


def _paths(entry: dict[str, Any], part: str) -> list[str]:
    return sorted(each["path"] for each in entry.get(part, ()))


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


def _inputs(disk: Disk, deps: Sequence[tuple[str, Content, str]], outs: dict[str, Content]) -> Iterator[Finding]:
    """What the stages read: that their entries agree with those of the writers, and for other files the files."""
    alike = 0
    for path in dict.fromkeys(path for path, _, _ in deps):
        within = [out for out in outs if out.startswith(f"{path}/")]
        if path not in outs and not all(disk.is_here(each) for each in within):
            yield unchecked(path, "not all of it is here")
            continue
        if not within and path not in outs and not disk.is_here(path):
            yield wrong(path, f"is not here, and {next(stage for other, _, stage in deps if other == path)} reads it")
            continue
        found = outs[path] if path in outs else disk.content(path)
        unlike = [(expected, stage) for other, expected, stage in deps if other == path and expected != found]
        if not unlike:
            alike += 1
            continue
        expected, stage = unlike[0]
        more = f" and {len(unlike) - 1} more" if len(unlike) > 1 else ""
        if path in outs:
            yield wrong(f"{LOCK}: {stage}", f"it read {path} as {expected}{more}, which was written as {found}")
        else:
            yield wrong(path, f"{found}, where dvc.lock has {expected} as read by {stage}{more}")
    yield right(LOCK, f"{alike} files and folders are as the stages read them")
