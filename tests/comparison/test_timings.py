"""Figure 4 measured on another machine is judged by the order of its times, and by no more."""

import json
import sys
from pathlib import Path

import pytest

from pipeline.cli.main import main
from pipeline.comparison.formats import render
from pipeline.comparison.tables import table
from pipeline.comparison.timings import judged, read
from pipeline.errors import UserError
from pipeline.publication.wide_resnet import PAPER

PRINTED = {"pre-act-ResNet-164": 85, "pre-act-ResNet-1001": 512, "WRN-40-4": 68, "WRN-16-10": 164, "WRN-28-10": 312}


def file(folder: Path, precision: str = "fp32", **ms: float) -> Path:
    timings = [
        {"network": name.replace("_", "-"), "ms": {"median": value, "low": value, "high": value, "n": 3}}
        for name, value in ms.items()
    ]
    path = folder / "figure-4.json"
    path.write_text(json.dumps({"machine": {"name": "A GPU"}, "precision": precision, "timings": timings}))
    return path


def verdicts(compared, path: Path) -> dict[str, str | None]:
    cells = judged(table("figure-4", compared([])).cells, read(path), PAPER.hardware)
    return {cell.model: cell.verdict for cell in cells if cell.metric == "batch32_ms"}


def test_times_in_the_papers_order(compared, tmp_path) -> None:
    path = file(tmp_path, **{name: value / 10 for name, value in PRINTED.items()})
    assert verdicts(compared, path) == dict.fromkeys(PRINTED, "same order")
    cells = judged(table("figure-4", compared([])).cells, read(path), PAPER.hardware)
    (cell,) = (c for c in cells if c.model == "WRN-40-4" and c.metric == "batch32_ms")
    assert cell.time == pytest.approx(6.8)
    assert [str(d) for d in cell.deviations] == ["device: A GPU instead of NVIDIA Titan X"]


def test_two_that_change_places_are_in_another_order(compared, tmp_path) -> None:
    path = file(tmp_path, "bf16", **(PRINTED | {"WRN-28-10": 600}))
    assert verdicts(compared, path) == {
        **dict.fromkeys(PRINTED, "same order"),
        "WRN-28-10": "other order",
        "pre-act-ResNet-1001": "other order",
    }
    cells = judged(table("figure-4", compared([])).cells, read(path), PAPER.hardware)
    assert {cell.verdict for cell in cells if cell.metric == "figure_label"} == {None}


def test_what_was_not_measured_stays_a_timing(compared, tmp_path) -> None:
    assert "same order" not in render([table("figure-4", compared([]))], "markdown", PAPER)
    path = file(tmp_path, **{"WRN-40-4": 10, "WRN-28-10": 70})
    found = verdicts(compared, path)
    assert (found["WRN-40-4"], found["WRN-28-10"], found["WRN-16-10"]) == ("same order", "same order", None)


def test_the_command_shows_them_in_every_format(tmp_path, monkeypatch, capsys) -> None:
    path = file(tmp_path, **PRINTED)
    monkeypatch.chdir(Path(__file__).parents[2])
    for form in ("terminal", "markdown", "latex", "html", "csv", "json"):
        words = ["compare", "--paper-table", "figure-4", "--timings", str(path), "--format", form]
        monkeypatch.setattr(sys, "argv", ["wrn-pipe", *words])
        with pytest.raises(SystemExit) as left:
            main()
        out = capsys.readouterr().out
        assert (left.value.code or 0) == 0
        assert out.count("same order") >= 5, form
        assert "A GPU" in out
        assert "312.0" in out


@pytest.mark.parametrize("text", [None, "{}", "no json"])
def test_another_file_is_refused(tmp_path, text) -> None:
    path = tmp_path / "other.json"
    if text is not None:
        path.write_text(text)
    with pytest.raises(UserError, match=r"--timings .*other\.json: "):
        read(path)
