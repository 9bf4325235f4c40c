"""The README's commands are real: each names a command, an option and a stage that exist, and its files are there."""

import re
import shlex
import subprocess
from pathlib import Path

import pytest
from typer.testing import CliRunner

from pipeline.cli.main import app

ROOT = Path(__file__).resolve().parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
BLOCKS = [block.removeprefix("\n") for block in README.split("```")[1::2] if block.startswith("\n")]
COMMANDS = [line.split(" #")[0].strip() for block in BLOCKS for line in block.splitlines()]
OURS = sorted({line for line in COMMANDS if line.startswith("wrn-pipe ")})


def test_the_readme_has_commands() -> None:
    assert {"make reproduce", "make test"} <= set(COMMANDS)
    assert len(OURS) >= 3


@pytest.mark.parametrize("line", OURS)
def test_a_command_of_the_readme_is_understood(line: str) -> None:
    """Its options are looked up in the command's own help; nothing is run."""
    words = shlex.split(line)
    shown = CliRunner().invoke(app, [words[1], "--help"])
    assert shown.exit_code == 0
    for word in words[2:]:
        if word.startswith("--"):
            assert word in shown.output, f"{words[1]} has no option {word}"


def test_the_makefile_has_the_targets() -> None:
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    for line in COMMANDS:
        if line.startswith("make "):
            assert re.search(rf"^{line.split()[1]}:", makefile, re.MULTILINE), line


def test_the_folders_of_the_table_exist() -> None:
    made = {"data/", "models/", "evaluations/", "results/", "tracking/", "scratch/"}
    for row in re.findall(r"^\| (`.*?`) \|", README, re.MULTILINE):
        for name in re.findall(r"`([^`]+)`", row):
            assert name in made or (ROOT / name).exists(), name


def test_the_python_of_the_readme_loads_published_weights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The block as it stands, beside weights as the train stage writes them, gives the network that was trained."""
    import torch
    from safetensors.torch import save_file

    from pipeline.models.build import build

    (code,) = re.findall(r"^```python\n(.*?)^```", README, re.MULTILINE | re.DOTALL)
    assert "mlflow" not in code
    trained = build("WRN-40-1", 10, conv_init="fan_out", bn_init="uniform", seed=5)
    trained(torch.randn(2, 3, 32, 32))  # moves the running statistics
    (tmp_path / "models" / "cifar10-wrn-40-1-quick-s1").mkdir(parents=True)
    save_file(trained.state_dict(), tmp_path / "models" / "cifar10-wrn-40-1-quick-s1" / "model.safetensors")
    monkeypatch.chdir(tmp_path)
    names: dict[str, torch.nn.Module] = {}
    exec(code, names)
    images = torch.randn(2, 3, 32, 32)
    with torch.inference_mode():
        assert torch.equal(names["model"](images), trained.eval()(images))


def test_what_the_readme_shows_of_the_comparison_is_what_the_results_say() -> None:
    """The excerpt's row holds our error as the committed results/runs.csv has it: `make reproduce` rewrites that file
    with what the reader's own processor computes."""
    import csv

    committed = ["git", "show", "HEAD:results/runs.csv"]
    text = subprocess.run(committed, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    (row,) = csv.DictReader(text.splitlines())
    shown = re.search(r"^ WRN-40-1 +6\.85 +([0-9.]+) \(n=1\)", README, re.MULTILINE)
    assert shown is not None
    assert float(shown[1]) == pytest.approx(float(row["top1_error"]), abs=0.005)
