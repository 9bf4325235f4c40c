"""How far each dataset has come from its sources to .beton files, told without reading its bytes.

What vouches for a folder is DVC: `dvc status` compares its files (by size, time and inode, by md5 where these changed)
with what the stage wrote, as dvc.lock records it; and the stage writes nothing whose content is not the pinned one.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal
from urllib.parse import urlsplit

from ruamel.yaml import YAML

from pipeline.dataset_config import DATA_DIR, SPLITS, ArchiveSource, Dataset, FilesSource, NpmSource, Source
from pipeline.dvc_lock import read
from pipeline.params import Plan
from pipeline.publication.wide_resnet import PAPER
from pipeline.runner.dag import read_dag, with_needed
from pipeline.runner.dvc import changes
from pipeline.runner.running_stages import running_stages

RAW, BETON = Path("data/raw"), Path("data/beton")

State = Literal["missing", "fetched", "verified", "converted"]


@dataclass(frozen=True)
class Lock:
    """What dvc.lock records, and which of its folders are still so."""

    stages: dict[str, Any]
    intact: frozenset[str]
    """Stages whose output lies here as recorded."""

    def output(self, stage: str) -> dict[str, Any] | None:
        """path, md5, size and number of files of the folder that a stage wrote; None if it is not on record."""
        outs: list[dict[str, Any]] = self.stages.get(stage, {}).get("outs", [])
        return outs[0] if outs else None

    def checked(self, name: str, dataset: Dataset) -> bool:
        """Whether data/raw/<name> is on record as of this entry's content: it ran with the same digests and files."""
        params = self.stages.get(f"download@{name}", {}).get("params", {}).get("params.yaml", {})
        entry = params.get(f"datasets.{name}")
        wanted = dataset.model_dump(mode="json", include=_CONTENT)
        return isinstance(entry, dict) and {key: entry.get(key) for key in _CONTENT} == wanted


_CONTENT = {"reader", "classes", "shape", "splits", "digests", "record_digests"}
"""Fields of a dataset that say what its content is; the others say where it comes from and whose it is."""


@dataclass(frozen=True)
class Standing:
    """One dataset's line in the list."""

    name: str
    title: str
    planned: bool
    """Whether params.yaml has it; the others are those of the paper that it could have."""
    state: State
    bytes_here: int
    """Of its raw arrays and .beton files on this disk."""
    bytes_raw: int
    """That the arrays take, once fetched."""
    representations: dict[str, Literal["missing", "unverified", "converted"]]
    """Kind -> whether its .beton files are here, and as the convert stage wrote them."""
    sources: tuple[str, ...]
    licence: str


def known_datasets() -> dict[str, Dataset]:
    """The entries of all datasets of the paper, as they can be copied into params.yaml."""
    entries = YAML(typ="safe", pure=True).load(PAPER.known_datasets)["datasets"]
    return {name: Dataset.model_validate(entry) for name, entry in entries.items()}


def raw_files(name: str, dataset: Dataset) -> list[Path]:
    """The files that a fetched dataset consists of; for images of many shapes, whatever its folder holds."""
    if dataset.shape is None:
        return sorted(path for path in (RAW / name).rglob("*") if path.is_file())
    return [RAW / name / f"{split}_{what}.npy" for split in SPLITS for what in ("images", "labels")]


def is_fetched(name: str, dataset: Dataset) -> bool:
    """Whether all files of data/raw/<name> are there."""
    files = raw_files(name, dataset)
    return bool(files) and all(path.is_file() for path in files)


def read_lock(plan: Plan) -> Lock:
    """Ask DVC about the download and convert stages of this plan that dvc.lock knows. Takes about a second."""
    stages = read()
    asked = [f"download@{name}" for name in plan.datasets] + [f"convert@{name}" for name in plan.representations]
    known = [stage for stage in asked if stages.get(stage, {}).get("outs")]
    if not any(Path(stages[stage]["outs"][0]["path"]).exists() for stage in known):
        return Lock(stages, frozenset())
    dag = read_dag(plan)
    running = running_stages(dag)
    known = [stage for stage in known if not running.keys() & with_needed(dag, [stage])]
    changed = {
        stage
        for stage, reasons in changes(known).items()
        if any(isinstance(reason, dict) and "changed outs" in reason for reason in reasons)
    }
    return Lock(stages, frozenset(known) - changed)


def standings(plan: Plan, known: dict[str, Dataset]) -> list[Standing]:
    """Every dataset of the plan, then every other one that is known."""
    lock = read_lock(plan)
    others = {name: dataset for name, dataset in known.items() if name not in plan.datasets}
    return [_standing(name, dataset, plan, lock) for name, dataset in {**plan.datasets, **others}.items()]


def _standing(name: str, dataset: Dataset, plan: Plan, lock: Lock) -> Standing:
    planned = name in plan.datasets
    kept: dict[str, Literal["missing", "unverified", "converted"]] = {}
    for key, representation in plan.representations.items():
        if representation.dataset == name:
            here = all((BETON / key / file).is_file() for file in ("card.json", *(f"{s}.beton" for s in SPLITS)))
            sound = f"convert@{key}" in lock.intact and lock.checked(name, dataset)
            kept[representation.kind] = "missing" if not here else "converted" if sound else "unverified"
    state: State = "missing"
    if is_fetched(name, dataset):
        sound = f"download@{name}" in lock.intact and lock.checked(name, dataset)
        state = "verified" if planned and sound else "fetched"
    if kept and set(kept.values()) == {"converted"}:
        state = "converted"
    folders = [RAW / name, *(BETON / f"{name}-{kind}" for kind in kept)]
    here_bytes = sum(path.stat().st_size for folder in folders for path in folder.rglob("*") if path.is_file())
    sources = tuple(map(_short, dataset.sources))
    return Standing(
        name, dataset.title, planned, state, here_bytes, dataset.size_on_disk, kept, sources, dataset.licence
    )


def _short(source: Source) -> str:
    if isinstance(source, ArchiveSource):
        return str(urlsplit(source.archive).hostname)
    if isinstance(source, FilesSource):
        return ", ".join(sorted({str(urlsplit(file.archive).hostname) for file in source.files}))
    return f"npm {source.npm}" if isinstance(source, NpmSource) else f"${DATA_DIR}"
