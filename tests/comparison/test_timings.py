"""Figure 4 measured on another machine is judged by the order of its times, and by no more."""

import json
import sys
from pathlib import Path

import pytest

from pipeline.cli.main import main
from pipeline.comparison.cells import Cell
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


def judged_by(compared, path: Path) -> dict[str, Cell]:
    cells = judged(table("figure-4", compared([])).cells, read(path), PAPER.hardware)
    assert {cell.verdict for cell in cells if cell.metric != "batch32_ms"} == {None}
    return {cell.model: cell for cell in cells if cell.metric == "batch32_ms"}


def test_times_in_the_papers_order(compared, tmp_path) -> None:
    found = judged_by(compared, file(tmp_path, **{name: value / 10 for name, value in PRINTED.items()}))
    assert {name: cell.verdict for name, cell in found.items()} == dict.fromkeys(PRINTED, "same order")
    assert found["WRN-40-4"].time == pytest.approx(6.8)
    assert [str(d) for d in found["WRN-40-4"].deviations] == ["device: A GPU instead of NVIDIA Titan X"]


def test_two_that_change_places_are_in_another_order(compared, tmp_path) -> None:
    found = judged_by(compared, file(tmp_path, "bf16", **(PRINTED | {"WRN-28-10": 600})))
    others = dict.fromkeys(("WRN-28-10", "pre-act-ResNet-1001"), "other order")
    assert {name: cell.verdict for name, cell in found.items()} == dict.fromkeys(PRINTED, "same order") | others


def test_what_was_not_measured_stays_a_timing(compared, tmp_path) -> None:
    found = judged_by(compared, file(tmp_path, **{"WRN-40-4": 10, "WRN-28-10": 70}))
    measured = dict.fromkeys(("WRN-40-4", "WRN-28-10"), "same order")
    assert {name: cell.verdict for name, cell in found.items()} == dict.fromkeys(PRINTED) | measured


def test_the_command_shows_them(tmp_path, monkeypatch, capsys) -> None:
    path = file(tmp_path, **PRINTED)
    monkeypatch.chdir(Path(__file__).parents[2])
    for form in ("terminal", "csv"):
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
