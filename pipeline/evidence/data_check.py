"""The datasets' content, every byte of it read again, against what is pinned; their files against dvc.lock."""

from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np

from pipeline import dvc_lock
from pipeline.data.beton import open_card, open_split
from pipeline.data.conversion import load
from pipeline.data.digest import split_digest
from pipeline.data.readers import check
from pipeline.dataset_config import SPLITS, Dataset, SourceError, Split
from pipeline.errors import UserError
from pipeline.evidence import lock_check
from pipeline.evidence.findings import Finding, State, right, wrong
from pipeline.params import PARAMS, Plan
from pipeline.runner.dag import stages
from pipeline.runner.data_state import RAW, beton_folders, raw_files


def verify(names: Iterable[str], plan: Plan) -> Iterator[Finding]:
    """All findings on these datasets, in the current folder, the repository's root."""
    disk, dag, locked = lock_check.Disk(Path.cwd()), stages(Path.cwd()), dvc_lock.read()
    for name in names:
        folders = {str(folder) for folder in (RAW / name, *beton_folders(name, plan).values())}
        yield from content(name, plan, disk)
        writers = [stage for stage in dag if folders & set(stage.outs)]
        yield from (each for each in lock_check.check(disk, writers, locked) if each.path in folders)


def content(name: str, plan: Plan, disk: lock_check.Disk) -> Iterator[Finding]:
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
        check({split: (images, labels)}, dataset)
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
