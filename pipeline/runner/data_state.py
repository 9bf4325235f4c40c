"""How far each dataset has come from its sources to .beton files, told without reading its bytes.

What vouches for a folder is DVC: `dvc status` compares its files (by size, time and inode, by md5 where these changed)
with what the stage wrote, as dvc.lock records it; and the stage writes nothing whose content is not the pinned one.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal
from urllib.parse import urlsplit

from ruamel.yaml import YAML

from pipeline.dataset_config import SPLITS, Dataset, FolderSource, NpmSource, Source
from pipeline.params import PARAMS, Plan
from pipeline.publication.wide_resnet import PAPER
from pipeline.runner.dag import read_dag, with_behind
from pipeline.runner.dvc import ask, running_stages

RAW, BETON = Path("data/raw"), Path("data/beton")


@dataclass(frozen=True)
class Standing:
    """One dataset's line in the list."""

    name: str
    title: str
    planned: bool
    """Whether params.yaml has it; the others are those of the paper that it could have."""
    state: Literal["missing", "fetched", "verified", "converted"]
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
    """The files that a fetched dataset consists of."""
    kinds = ("images.npy", "labels.npy") if dataset.shape else ("images.bin", "index.csv")
    return [RAW / name / f"{split}_{kind}" for split in SPLITS for kind in kinds]


def beton_folders(name: str, plan: Plan) -> dict[str, Path]:
    """Kind of representation -> where params.yaml has the dataset's."""
    return {each.kind: BETON / key for key, each in plan.representations.items() if each.dataset == name}


def standings(plan: Plan, known: dict[str, Dataset]) -> list[Standing]:
    """Every dataset of the plan, then every other one that is known. Takes about a second."""
    dag = read_dag(plan)
    running = running_stages(dag)
    asked = [stage for stage in dag.values() if stage.kind in ("download", "convert")]
    why = ask(asked, running) | {name: ["it is at work"] for name in with_behind(dag, running)}
    entries = {**plan.datasets, **known, **plan.datasets}
    return [_standing(name, dataset, plan, why) for name, dataset in entries.items()]


def _standing(name: str, dataset: Dataset, plan: Plan, why: dict[str, list[str]]) -> Standing:
    """`why`: stage -> the reasons for which DVC would run it."""

    def doubted(stage: str, *reasons: str) -> bool:
        return any(reason.startswith(("it ", *reasons)) for reason in why.get(stage, ()))

    folders, download, settings = beton_folders(name, plan), f"download@{name}", f"{PARAMS}: "
    kept: dict[str, Literal["missing", "unverified", "converted"]] = {}
    for kind, folder in folders.items():
        here = all((folder / file).is_file() for file in ("card.json", *(f"{split}.beton" for split in SPLITS)))
        sound = not doubted(f"convert@{folder.name}", "output ") and not doubted(download, settings)
        kept[kind] = "missing" if not here else "converted" if sound else "unverified"
    state: Literal["missing", "fetched", "verified", "converted"] = "missing"
    if kept and set(kept.values()) == {"converted"}:
        state = "converted"
    elif all(path.is_file() for path in raw_files(name, dataset)):
        sound = name in plan.datasets and not doubted(download, "output ", settings)
        state = "verified" if sound else "fetched"
    files = (path for folder in (RAW / name, *folders.values()) for path in folder.rglob("*") if path.is_file())
    size, sources = sum(path.stat().st_size for path in files), tuple(map(_short, dataset.sources))
    about = name, dataset.title, name in plan.datasets
    return Standing(*about, state, size, dataset.size_on_disk, kept, sources, dataset.licence)


def _short(source: Source) -> str:
    if isinstance(source, NpmSource | FolderSource):
        return str(source)
    return ", ".join(sorted({str(urlsplit(file.archive).hostname) for file in source.files}))
