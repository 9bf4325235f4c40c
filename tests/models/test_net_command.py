"""`wrn-pipe net NAME`."""

import json

import typer
from typer.testing import CliRunner

from pipeline.cli.net import net

app = typer.Typer()
app.command()(net)


def run(*arguments: str) -> str:
    result = CliRunner().invoke(app, arguments, env={"COLUMNS": "80", "TERM": "dumb"}, catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return result.output


def test_wrn_40_1_fits_on_a_screen() -> None:
    lines = run("WRN-40-1").splitlines()
    assert len(lines) <= 32
    assert max(map(len, lines)) <= 80
    assert lines[0].startswith("WRN-40-1, 10 classes, one 32 x 32 image")
    cells = [[cell.strip() for cell in line.strip("│").split("│")] for line in lines if line.startswith("│")]
    assert [row[0] for row in cells if row[0].startswith("group")] == ["group1", "group2", "group3"]
    assert sum(row[0].startswith("block") for row in cells) == 18
    assert ["group3", "64 x 8 x 8", "427,456", "27,262,976"] in cells
    assert cells[-1] == ["total", "", "563,930", "83,280,512"]


def test_long_groups_are_folded_and_options_change_head_and_sizes() -> None:
    output = run("pre-act-ResNet-1001", "--num-classes", "100", "--image-size", "64")
    assert len(output.splitlines()) < 25
    assert "block2 ... block111, each" in output
    assert "256 x 16 x 16" in output
    assert "10,350,836" in output


def test_json_lists_every_layer() -> None:
    described = json.loads(run("WRN-50-2-bottleneck", "--json"))
    assert described["name"] == "WRN-50-2-bottleneck"
    assert (described["num_classes"], described["image_size"]) == (1000, 224)
    leaves = [layer for layer in described["layers"] if layer["kind"] not in ("group", "block")]
    assert sum(layer["parameters"] for layer in leaves) == described["parameters"] == 68_883_240
    assert sum(layer["multiply_adds"] for layer in leaves) == described["multiply_adds"]
    fc = {"name": "fc", "kind": "linear", "output": [1000], "parameters": 2_049_000, "multiply_adds": 2_048_000}
    assert fc in leaves
