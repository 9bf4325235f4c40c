"""params.yaml as shipped is valid; every mistake in it is one line with its place and one with the remedy."""

import re
from pathlib import Path

import pytest

from pipeline.errors import UserError
from pipeline.params import StepSchedule
from pipeline.publication.paper import KNOWN_DATASETS
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


MISTAKES = {  # (what to replace, by what): (the line's word, what is said, the remedy)
    ("    epochs: 200", "    epoch: 200"): ("epoch: 200", "protocols.paper-meanstd.epoch: unknown key", "epochs"),
    ("    epochs: 200", "    epochs: '200'"): ("epochs: '200'", "valid integer", "without quotes"),
    ("    epochs: 200", "    epochs: 0"): ("epochs: 0", "greater than 0", "correct epochs"),
    ("    epochs: 200\n", ""): ("paper-meanstd:", "paper-meanstd.epochs: missing", "add epochs"),
    ("    epochs: 200", "    epochs: 120"): ("paper-meanstd:", r"drop_after \[59, 119, 159\]", "change one"),
    ("precision: fp32", "precision: fp16"): ("precision: fp16", "invalid choice 'fp16'", "'fp32' or 'bf16'"),
    ("kind: step", "kind: stepp"): ("{kind: stepp", "invalid kind 'stepp'", "'step', 'one-cycle'"),
    ("    network: WRN-40-1", "    network: WRN-41-1"): ("WRN-41-1", "WRN-41-1", "WRN-40-1"),
    ("    protocol: quick", "    protocol: quik"): ("protocol: quik", "no protocol 'quik'", "quick"),
    ("    dataset: cifar10\n", "    dataset: cifar11\n"): ("dataset: cifar11", "no dataset 'cifar11'", "cifar10"),
    ("    seed: 1", "    seed: -1"): ("seed: -1", "greater than or equal to 0", "correct seed"),
    ("  cifar10-wrn-40-1-quick-s1:", "  Cifar10 Run:"): ("Cifar10 Run:", "lower-case letters", "cifar10-wrn-40-1"),
    ("\n  quick:", "\n  quick.er:"): ("quick.er:", "protocols.quick.er: a name has no dots", "rename it quick-er"),
    ('tables: ["4"]', "tables: [4]"): ("tables: [4]", "valid string", "into quotes"),
    ('tables: ["4"]', 'tables: ["44"]'): ('tables: ["44"]', "the paper has no table '44'", "mean 4"),
    ("backend: ffcv", "backend: fcv"): ("backend: fcv", "invalid choice 'fcv'", "'ffcv' or 'numpy'"),
    ("\nruns:", "\nrunns:"): ("runns:", "runns: unknown key", "runs"),
    ("  quick:", "  quick: ["): ("batch_size: 128", "expected", "YAML"),
    ("test_every: 1", "test_every: 1\n    holdout: 5"): ("quick:", "which holdout is there to leave", "change one"),
    ("seed: 1", "seed: 1\n    seed: 2"): ("seed: 2", "duplicate key", "YAML"),
    ("    cifar10: 0.3 ", "    cifar11: 0.3 "): ("cifar11: 0.3", "margins.cifar11: no dataset", "mean cifar10"),
    ("learning_rate: 0.4", "learning_rate: .inf"): ("learning_rate: .inf", "rate: input should be a finite", "correct"),
    ("batch_size: 128", "batch_size: .inf"): ("batch_size: .inf", "input should be a valid integer", "whole"),
    ("weight_decay: 0.0005", "weight_decay: x"): ("weight_decay: x", "valid number", "a number without quotes"),
}  # fmt: skip


@pytest.mark.parametrize("mistake", MISTAKES, ids=lambda pair: re.sub(r"\s+", " ", pair[1])[:40] or "removed")
def test_a_mistake_is_told_with_its_line_and_remedy(mistake: tuple[str, str], tmp_path: Path) -> None:
    before, after = mistake
    assert before in TEXT
    text = TEXT.replace(before, after, 1)
    path = tmp_path / "params.yaml"
    path.write_text(text)
    word, said, remedy = MISTAKES[mistake]
    with pytest.raises(UserError) as caught:
        load(path)
    assert re.search(said, caught.value.what), caught.value.what
    assert re.search(remedy, caught.value.remedy), caught.value.remedy
    assert f"{path}:{line_of(text, word)}:" in caught.value.what, caught.value.what
    assert "\n" not in caught.value.what
    assert "\n" not in caught.value.remedy


ZCA = "  cifar10-rgb: {dataset: cifar10, kind: rgb}\n  cifar10-zca: {dataset: cifar10, kind: zca}"
REPRESENTATIONS = {  # what is replaced, in order: what is said, or nothing where the plan is valid
    (("rgb}", "jpeg}"), ("cifar10-rgb", "cifar10-jpeg")): ("cifar10-jpeg.kind: cifar10 has images of one shape", "rgb"),
    (("kind: rgb}", "kind: zca}"),): ("must be named <dataset>-<kind>", "cifar10-zca"),
    (("preprocessing: meanstd", "preprocessing: zca"),): ("protocol quick needs zca", "representation: zca"),
    (("  cifar10-rgb: {dataset: cifar10, kind: rgb}", ZCA), ("    representation: rgb", "    representation: zca")): (
        "protocol quick needs rgb",
        "representation: rgb",
    ),
    (
        ("  cifar10-rgb: {dataset: cifar10, kind: rgb}", ZCA),
        ("    representation: rgb", "    representation: zca"),
        ("preprocessing: meanstd", "preprocessing: zca"),
    ): None,
    (("kind: rgb}", "kind: rgb, quality: 90}"),): ("cifar10-rgb: only jpeg has a quality", "remove quality"),
    (("kind: rgb}", "kind: rgb, max_side: 10}"),): (
        "max_side: input should be greater than or equal to 32",
        "max_side",
    ),
}


@pytest.mark.parametrize("changes", REPRESENTATIONS)
def test_images_are_stored_as_the_protocol_needs_them(changes: tuple[tuple[str, str], ...], tmp_path: Path) -> None:
    text = TEXT
    for before, after in changes:
        assert before in text
        text = text.replace(before, after, 1)
    path = tmp_path / "params.yaml"
    path.write_text(text)
    if REPRESENTATIONS[changes] is None:
        assert load(path).run("cifar10-wrn-40-1-quick-s1").representation == "zca"
        return
    said, remedy = REPRESENTATIONS[changes]
    with pytest.raises(UserError) as caught:
        load(path)
    assert said in caught.value.what
    assert remedy in caught.value.remedy


JPEG = "  imagenet-jpeg: {dataset: imagenet, kind: jpeg, max_side: 500, quality: 90}\n"


@pytest.mark.parametrize(
    ("change", "said", "remedy"),
    [
        (("", ""), None, ""),
        ((", max_side: 500", ""), "imagenet-jpeg: jpeg needs a max_side", "add max_side: 500"),
        ((", quality: 90", ""), "imagenet-jpeg: jpeg needs a quality", "add quality: 90"),
        (("quality: 90", "quality: 101"), "less than or equal to 100 (is 101)", "correct quality"),
        (("max_side: 500", "max_side: 4000"), "less than or equal to 2000 (is 4000)", "correct max_side"),
    ],
)
def test_jpegs_say_how_they_are_made(change: tuple[str, str], said: str | None, remedy: str, tmp_path: Path) -> None:
    known = KNOWN_DATASETS.read_text()
    entry = known[known.index("  imagenet:") :]
    path = tmp_path / "params.yaml"
    with_entry = TEXT.replace("\nrepresentations:\n", f"\n{entry}\nrepresentations:\n{JPEG.replace(*change)}")
    path.write_text(with_entry.replace("\n# How a dataset's images are stored for training: <dataset>-<kind>.", ""))
    if said is None:
        representation = load(path).representations["imagenet-jpeg"]
        assert (representation.max_side, representation.quality) == (500, 90)
        return
    with pytest.raises(UserError) as caught:
        load(path)
    assert said in caught.value.what
    assert caught.value.remedy == remedy
    assert f"{path}:{line_of(path.read_text(), 'imagenet-jpeg')}:" in caught.value.what


def test_no_params_here(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="not found") as caught:
        load(tmp_path / "params.yaml")
    assert "root" in caught.value.remedy


@pytest.mark.parametrize("text", ["", "[]", "3"])
def test_not_a_plan_at_all(tmp_path: Path, text: str) -> None:
    path = tmp_path / "params.yaml"
    path.write_text(text)
    with pytest.raises(UserError, match="not a mapping"):
        load(path)


def test_quick_is_the_shortest_member_of_fast() -> None:
    protocols = load(SHIPPED).protocols
    assert protocols["quick"] == protocols["fast"].model_copy(
        update={name: getattr(protocols["quick"], name) for name in ("epochs", "test_every")}
    )
    assert protocols["quick"].epochs < protocols["fast"].epochs
