"""The files here, every byte of them read, against what vouches for them.

dvc.lock vouches for every command, setting, input and output of every stage, the digests pinned in params.yaml for the
decoded content of datasets, and cards for .beton files. `dvc status` goes by size, time and inode; this also finds what
hides from that.
"""

import fnmatch
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from ruamel.yaml import YAML

from pipeline.data.beton import open_card, open_split
from pipeline.data.conversion import load
from pipeline.data.digest import file_digest, split_digest
from pipeline.data.readers import check as check_shape
from pipeline.dataset_config import SPLITS, Dataset, SourceError, Split
from pipeline.dvc_lock import IGNORED, LOCK, listing_md5, read
from pipeline.errors import UserError
from pipeline.evidence.findings import Finding, State, right, unchecked, wrong
from pipeline.params import PARAMS, Plan
from pipeline.runner.dag import Stage, stages
from pipeline.runner.dvc import to_have
from pipeline.runner.plan_state import RAW, beton_folders, raw_files

CARD = "card.json"


@dataclass
class Disk:
    """The md5s of the files here, each read once."""

    root: Path
    _files: dict[str, str] = field(default_factory=dict)

    def is_here(self, path: str) -> bool:
        """A data folder of which only the card is here, as in a bundle, is not."""
        place = self.root / path
        return place.exists() and not (place.is_dir() and [p.name for p in place.iterdir()] == [CARD])

    def md5(self, path: str) -> str:
        """As DVC records it: of a file's bytes, or of a folder's list of names and md5s."""
        place = self.root / path
        if not place.is_file():
            return listing_md5({name: self.md5(f"{path}/{name}") for name in self.names(path)})
        if path not in self._files:
            self._files[path] = file_digest(place, "md5")
        return self._files[path]

    def names(self, folder: str) -> list[str]:
        """The files in a folder that DVC counts, by their names below it."""
        here = self.root / folder
        files = (path.relative_to(here) for path in here.rglob("*") if path.is_file())
        return sorted(
            path.as_posix()
            for path in files
            if not any(fnmatch.fnmatchcase(part, pattern) for part in path.parts for pattern in self._ignored)
        )

    @cached_property
    def _ignored(self) -> list[str]:
        ignore = self.root / IGNORED
        lines = ignore.read_text(encoding="utf-8").splitlines() if ignore.is_file() else []
        return [line for line in lines if line and not line.startswith("#")]


def check(disk: Disk, dag: Sequence[Stage], locked: dict[str, Any], *, data: bool = True) -> Iterator[Finding]:
    """Every stage's entry in dvc.lock, whose stages are `locked`, then every file that dvc.yaml and some entry name.

    `data` false leaves out data/.
    """
    params = YAML(typ="safe", pure=True).load((disk.root / PARAMS).read_text(encoding="utf-8"))
    records: dict[str, list[tuple[Stage, str]]] = {}
    """By path the md5s that stages recorded of it, in the order of dvc.yaml: who writes it first."""
    for stage in dag:
        entry = locked.get(stage.name)
        yield _entry(disk, stage, entry, params)
        for part, listed in (("outs", stage.outs), ("deps", stage.deps)):
            for path, md5 in _recorded(entry, part).items():
                if path in listed and (data or not path.startswith("data/")):
                    records.setdefault(path, []).append((stage, md5))
    for path, told in records.items():
        yield _file(disk, path, told, [out for stage in dag for out in stage.outs if out.startswith(f"{path}/")])


def _recorded(entry: dict[str, Any] | None, part: str) -> dict[str, str]:
    """What an entry of dvc.lock has of the files and folders that its stage wrote (outs) or read (deps)."""
    return {each["path"]: str(each.get("md5")) for each in (entry or {}).get(part, ())}


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


def _file(disk: Disk, path: str, told: Sequence[tuple[Stage, str]], inside: Sequence[str]) -> Finding:
    """A file or folder against the md5s that stages `told` of it. `inside`: what others write in the folder."""
    stage = told[0][0]
    if not all(disk.is_here(out) for out in inside):
        return unchecked(path, "not all of it is here")
    if not disk.is_here(path):
        if path in stage.outs and path not in stage.committed:
            return unchecked(path, "not here", to_have(stage.name, disk.root))
        return wrong(path, "not found", f"git checkout {path}, or wrn-pipe repro {stage.name}")
    found = disk.md5(path)
    unlike = [(stage, md5) for stage, md5 in told if md5 != found]
    if not unlike:
        return right(path, f"md5 {found[:12]} as in dvc.lock")
    stage, md5 = unlike[0]
    how = f"as {'written' if path in stage.outs else 'read'} by {stage.name}"
    if len(unlike) == len(told):
        return wrong(path, f"md5 {found[:12]}, where dvc.lock has {md5[:12]} {how}")
    return wrong(f"{LOCK}: {stage.name}", f"has {path} as {md5[:12]}, which is {found[:12]} here and in other entries")


def datasets(names: Iterable[str], plan: Plan) -> Iterator[Finding]:
    """All findings on these datasets, in the current folder, the repository's root."""
    disk, dag, locked = Disk(Path.cwd()), stages(Path.cwd()), read()
    for name in names:
        folders = {str(folder) for folder in (RAW / name, *beton_folders(name, plan).values())}
        yield from content(name, plan, disk)
        writers = [stage for stage in dag if folders & set(stage.outs)]
        yield from (each for each in check(disk, writers, locked) if each.path in folders)


def content(name: str, plan: Plan, disk: Disk) -> Iterator[Finding]:
    """Findings on each file of data/raw/<name> and of its representations, as far as their folders are here."""
    dataset, folders = plan.datasets[name], beton_folders(name, plan)
    if dataset.shape is not None and disk.is_here(str(RAW / name)):
        for split in SPLITS:
            yield from _raw_split(name, dataset, split, folders.get("rgb"))
    for kind, folder in folders.items():
        if disk.is_here(str(folder)):
            for split in SPLITS:
                yield _beton(folder, split, dataset.digests if kind == "rgb" else None)


def _raw_split(name: str, dataset: Dataset, split: Split, converted: Path | None) -> Iterator[Finding]:
    state: State = "wrong"
    try:
        images, labels = load(RAW / name, split)
        check_shape({split: (images, labels)}, dataset)
    except (OSError, ValueError, EOFError, SourceError, UserError) as error:
        why = error.what if isinstance(error, UserError) else f"not as {PARAMS} says: {error}"
    else:
        found, by = split_digest(np.asarray(images), labels), f"pinned in {PARAMS}"
        pinned = dataset.digests and dataset.digests[split]
        if pinned is None and converted and (converted / "card.json").is_file():
            by = f"in {converted / 'card.json'}"
            pinned = open_card(converted).get("splits", {}).get(split, {}).get("digest")
        if pinned is None:
            state, why = "unchecked", f"digest {found}; pin it in {PARAMS}"
        elif found == pinned:
            state, why = "right", f"digest {found[:12]} of images and labels as {by}"
        else:
            why = f"digest of images and labels is {found}, {by} {pinned}"
    fix = f"wrn-pipe repro download@{name}" if state == "wrong" else ""
    for path in raw_files(name, dataset):
        if path.name.startswith(f"{split}_"):
            yield Finding(str(path), state, why, fix)


def _beton(folder: Path, split: Split, pinned: dict[Split, str] | None) -> Finding:
    """One .beton file against its card, and the card against the digests pinned of what it keeps."""
    path = folder / f"{split}.beton"
    try:
        open_split(folder, split)
    except UserError as error:
        return wrong(path, error.what, error.remedy)
    entry = open_card(folder)["splits"][split]
    digest = entry.get("digest", "unknown")
    if pinned and digest != pinned[split]:
        return wrong(path, f"its card says content {digest}, pinned in {PARAMS} {pinned[split]}")
    as_pinned = f", content {digest[:12]} as pinned in {PARAMS}" if pinned else ""
    return right(path, f"sha256 {entry['beton']['sha256'][:12]} as in its card{as_pinned}")
