"""wrn-pipe sweep: real trainings of changed protocols, noted in a CSV file."""

import csv
import json
import shlex
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from project import ROOT, make_project
from typer.testing import CliRunner

from pipeline.cli import fast_page, sweep
from pipeline.cli.main import app
from pipeline.errors import UserError
from pipeline.models.names import parse
from pipeline.models.param_count import multiply_adds


def rows(path: Path) -> list[dict[str, str]]:
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def test_a_sweep_notes_each_training_once(
    tmp_path: Path,
    tiny_beton: Path,
    tiny_dataset_entry: Callable[[str], dict[str, Any]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    project = make_project(tmp_path / "project", tiny_dataset_entry("http://127.0.0.1:9/none"), tiny_beton)
    project.edit(lambda params: params["loading"].update(backend="numpy"))
    monkeypatch.chdir(project.root)
    before = {path: path.read_bytes() for path in (project.root / "params.yaml", project.root / "dvc.yaml")}
    to = project.root / "choice.csv"
    command = ["sweep", "brief", "--dataset", "cifar10-tiny", "--networks", "WRN-10-1", "--to", str(to)]
    changes = ["--set", "epochs=1,2", "--set", "schedule.warmup_fraction=0.5", "--set", "holdout=60"]
    changes += ["--set", "test_every=0"]
    first = CliRunner().invoke(app, [*command, *changes])
    assert first.exit_code == 0, first.output
    one, two = rows(to)
    assert [row["epochs"] for row in (one, two)] == ["1", "2"]
    assert {(row["n"], row["split"], row["holdout"]) for row in (one, two)} == {("60", "held-out", "60")}
    assert json.loads(one["schedule"])["warmup_fraction"] == 0.5
    assert int(two["training_multiply_adds"]) == 3 * multiply_adds(parse("WRN-10-1"), 32, 10) * (260 - 60) * 2
    assert float(one["top1_error"]) != float(two["top1_error"])
    assert [path.name for path in (project.root / "scratch").iterdir()] == ["choice.csv.lock"]
    assert not (project.root / "models").exists()

    # A seed more: what is there stays, to the byte, and is not trained again; without a holdout it is the test split.
    again = CliRunner().invoke(app, [*command, *changes, "--seeds", "2"])
    assert again.output.count("choice.csv has WRN-10-1, seed 1") == 2
    assert [row for row in rows(to) if row["seed"] == "1"] == [one, two]
    assert CliRunner().invoke(app, [*command, "--set", "epochs=1"]).exit_code == 0
    (tested,) = (row for row in rows(to) if row["split"] == "test")
    assert tested["n"] == "104"
    assert len({row["fingerprint"] for row in rows(to)}) == len(rows(to)) == 5
    assert {path: path.read_bytes() for path in before} == before

    # The same recipes by other code are told before anything is trained.
    kept = to.read_text()
    to.write_text(kept.replace(tested["fingerprint"], "0" * 64))
    other = CliRunner().invoke(app, [*command, "--set", "epochs=1"])
    assert isinstance(other.exception, UserError)
    assert (
        "has WRN-10-1, seed 1 by this recipe, but by other code or data: fingerprint 000000000000"
        in other.exception.what
    )
    assert to.read_text() == kept.replace(tested["fingerprint"], "0" * 64)


def test_the_commands_on_the_page_make_every_row_of_the_files(monkeypatch: pytest.MonkeyPatch) -> None:
    """By their recipes; the trainings themselves take hours."""
    made: list[tuple[Path, dict[str, str]]] = []
    monkeypatch.chdir(ROOT)
    monkeypatch.setattr(sweep, "_refuse_a_second", lambda *_: None)
    monkeypatch.setattr(sweep, "_train", lambda plan, to: made.append((to, sweep._recipe(plan))))
    for line in fast_page.COMMANDS:
        done = CliRunner().invoke(app, shlex.split(line)[1:])
        assert done.exit_code == 0, done.output
    for file in (fast_page.CHOICE, fast_page.CURVE):
        in_file = sorted([row[column] for column in sweep.RECIPE] for row in rows(file))
        assert sorted(list(recipe.values()) for to, recipe in made if to == file) == in_file


@pytest.mark.parametrize(
    ("arguments", "what"),
    [
        (["fats"], "params.yaml has no protocol 'fats'"),
        (["fast", "--dataset", "cifar"], "params.yaml has no dataset 'cifar'"),
        (["fast", "--set", "epochs"], "--set 'epochs' is no setting"),
        (["fast", "--set", "epochs=[1"], "--set 'epochs=[1' is no setting"),
        (["fast", "--set", "epoch=2"], "protocols.fast.epoch: unknown key"),
        (["fast", "--set", "schedule.kind.x=2"], "protocol fast has no schedule.kind.x"),
        (["fast", "--set", "holdout=50000"], "protocols.fast.holdout: cifar10 has no more training images"),
        (["fast", "--networks", "WRN-16"], "unknown network 'WRN-16'"),
    ],
)
def test_mistakes_are_told_before_anything_is_trained(arguments: list[str], what: str, tmp_path: Path) -> None:
    ended = CliRunner().invoke(app, ["sweep", *arguments, "--to", str(tmp_path / "x.csv")])
    assert isinstance(ended.exception, UserError)
    assert what in ended.exception.what


def test_another_file_is_not_overwritten(tmp_path: Path) -> None:
    """Nor is a place that cannot be written found out after the first training."""
    (tmp_path / "x.csv").write_text("a,b\n1,2\n")
    (tmp_path / "x.png").write_bytes(b"\x89PNG\xff")
    (tmp_path / "folder").mkdir()
    before = sorted(tmp_path.rglob("*"))
    for name in ("x.csv", "x.png", "folder", "none/x.csv", "x.csv/y.csv"):
        ended = CliRunner().invoke(app, ["sweep", "fast", "--to", str(tmp_path / name)])
        assert isinstance(ended.exception, UserError), name
        assert name.partition("/")[0] in ended.exception.what
    ended = CliRunner().invoke(app, ["sweep", "fast", "--to", "params.yaml"])
    assert isinstance(ended.exception, UserError)
    assert sorted(tmp_path.rglob("*")) == before
    assert (tmp_path / "x.csv").read_text() == "a,b\n1,2\n"
