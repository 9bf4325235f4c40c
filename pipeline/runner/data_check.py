"""Read every byte of a dataset again and compare it with what is pinned or on record."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np

from pipeline.data.beton import open_card, open_split
from pipeline.data.conversion import load
from pipeline.data.digest import split_digest
from pipeline.data.readers import check
from pipeline.dataset_config import SPLITS, Dataset, SourceError, Split
from pipeline.dvc_lock import folder_md5
from pipeline.errors import UserError
from pipeline.params import PARAMS, Plan
from pipeline.runner.data_state import BETON, RAW, Lock, raw_files

Verdict = Literal["right", "wrong", "missing", "unrecorded"]


@dataclass(frozen=True)
class Finding:
    """What reading one file, or one folder as a whole, has shown."""

    path: str
    verdict: Verdict
    """unrecorded: it was read, and nothing says what it should be."""
    why: str


def verify(name: str, dataset: Dataset, plan: Plan, lock: Lock) -> Iterator[Finding]:
    """Findings on data/raw/<name> and on each representation of it, as far as their folders exist."""
    kept = [key for key, representation in plan.representations.items() if representation.dataset == name]
    if (RAW / name).is_dir():
        if dataset.shape is not None:
            for split in SPLITS:
                yield from _raw_split(name, dataset, split, [key for key in kept if key == f"{name}-rgb"])
        yield _folder(RAW / name, lock, f"download@{name}")
    for key in kept:
        if (BETON / key).is_dir():
            for split in SPLITS:
                yield _beton(BETON / key, split, dataset if plan.representations[key].kind == "rgb" else None)
            yield _folder(BETON / key, lock, f"convert@{key}")


def _raw_split(name: str, dataset: Dataset, split: Split, converted: list[str]) -> Iterator[Finding]:
    files = [path for path in raw_files(name, dataset) if path.name.startswith(f"{split}_")]
    if lacking := [path for path in files if not path.is_file()]:
        yield from (Finding(str(path), "missing", f"wrn-pipe repro download@{name} fetches it") for path in lacking)
        return
    try:
        images, labels = load(RAW / name, split)
        check({split: (images, labels)}, dataset)
    except (OSError, ValueError, EOFError, SourceError) as error:
        why = str(error) if isinstance(error, SourceError) else f"unreadable arrays: {error}"
        yield from (Finding(str(path), "wrong", why) for path in files)
        return
    found = split_digest(np.asarray(images), labels)
    pinned, by = _pinned(dataset, split, converted)
    verdict: Verdict
    if pinned is None:
        verdict, why = "unrecorded", f"digest {found}; pin it in {PARAMS}"
    elif found == pinned:
        verdict, why = "right", f"digest {found[:12]} of images and labels as {by}"
    else:
        verdict, why = "wrong", f"digest of images and labels is {found}, {by} {pinned}"
    yield from (Finding(str(path), verdict, why) for path in files)


def _pinned(dataset: Dataset, split: Split, converted: list[str]) -> tuple[str | None, str]:
    """The digest that a split's content should have, and who says so."""
    if dataset.digests is not None:
        return dataset.digests[split], f"pinned in {PARAMS}"
    for key in converted:
        if (BETON / key / "card.json").is_file():
            digest = open_card(BETON / key).get("splits", {}).get(split, {}).get("digest")
            return digest, f"in {BETON / key / 'card.json'}"
    return None, ""


def _beton(folder: Path, split: Split, published: Dataset | None) -> Finding:
    """One .beton file against its card, and the card against the pinned digest where it keeps the published bytes."""
    path = folder / f"{split}.beton"
    remedy = f"wrn-pipe repro convert@{folder.name} writes it"
    for needed in (path, folder / "card.json"):
        if not needed.is_file():
            return Finding(str(needed), "missing", remedy)
    try:
        open_split(folder, split)
        entry = open_card(folder)["splits"][split]
    except UserError as error:
        return Finding(str(path), "wrong", error.what.removeprefix(f"{path} ").removeprefix(f"{path}: "))
    digest = entry.get("digest", "unknown")
    pinned = published.digests[split] if published is not None and published.digests is not None else None
    if pinned is not None and digest != pinned:
        return Finding(str(path), "wrong", f"its card says content {digest}, pinned in {PARAMS} {pinned}")
    content = f", content {digest[:12]} as pinned in {PARAMS}" if pinned is not None else ""
    return Finding(str(path), "right", f"sha256 {entry['beton']['sha256'][:12]} as in its card{content}")


def _folder(folder: Path, lock: Lock, stage: str) -> Finding:
    """A folder's files and their names against dvc.lock."""
    record = lock.output(stage)
    if record is None:
        return Finding(f"{folder}/", "unrecorded", f"dvc.lock has no {stage}")
    found = folder_md5(folder)
    if found == record["md5"]:
        return Finding(f"{folder}/", "right", f"md5 {found[:12]} of {record['nfiles']} files as in dvc.lock")
    names = ", ".join(sorted(path.name for path in folder.rglob("*") if path.is_file()))
    why = f"md5 of {names} is {found}, in dvc.lock {record['md5']} of {record['nfiles']} files"
    return Finding(f"{folder}/", "wrong", why)
