"""params.yaml as shipped is valid; every mistake in it is one line with its place and one with the remedy."""

import re
from pathlib import Path

import pytest

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
    ("kind: rgb}", "kind: zca}"): ("kind: zca", "must be named <dataset>-<kind>", "cifar10-zca"),
    ("preprocessing: meanstd", "preprocessing: zca"): ("representation: rgb", "quick needs zca", "representation: zca"),
    ("kind: rgb}", "kind: rgb, quality: 90}"): ("kind: rgb", "only jpeg has a quality", "remove quality"),
    ("kind: rgb}", "kind: rgb, max_side: 10}"): ("max_side", "be greater than or equal to 32", "max_side"),
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


def test_no_params_here(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="not found") as caught:
        load(tmp_path / "params.yaml")
    assert "root" in caught.value.remedy


@pytest.mark.parametrize("text", ["", "[]", "3"])
def test_not_a_plan_at_all(tmp_path: Path, text: str) -> None:
    (tmp_path / "params.yaml").write_text(text)
    with pytest.raises(UserError, match="not a mapping"):
        load(tmp_path / "params.yaml")


def test_quick_is_the_shortest_member_of_fast() -> None:
    protocols = load(SHIPPED).protocols
    assert protocols["quick"] == protocols["fast"].model_copy(
        update={name: getattr(protocols["quick"], name) for name in ("epochs", "test_every")}
    )
    assert protocols["quick"].epochs < protocols["fast"].epochs
