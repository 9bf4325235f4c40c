"""dvc.yaml against the code: a stage depends on all that can change what it writes, and training on nothing else."""

import subprocess
import sys
from functools import cache
from pathlib import Path

import grimp
import pytest
from ruamel.yaml import YAML

from pipeline.runner.dag import read_dag, with_behind, with_needed
from pipeline.runner.params_file import load

ROOT = Path(__file__).resolve().parents[1]
RUN = "cifar10-wrn-40-1-quick-s1"
STAGES = YAML(typ="safe", pure=True).load(ROOT / "dvc.yaml")["stages"]

CALLERS = {"runner", "tracking"}
"""Packages that decide when and where a stage works, and show that it did; never what it computes."""
TRAINER = "pipeline.training.train_run"
"""Called by pipeline/runner/launch.py, here or in many processes, for the train stage."""
WRITERS = {"pipeline/artifacts.py", "pipeline/atomic_write.py"}
"""Of the files that lie in pipeline/ itself those that write results. The others hold settings, which DVC watches in
params.yaml, names and messages, or read what is there."""
BELOW = {"data", "kernels", "models", "tasks", "training"} & {path.name for path in (ROOT / "pipeline").iterdir()}
"""Packages below the line: a training depends on each as a whole. kernels may be deleted."""


def file_of(module: str) -> str:
    path = Path(*module.split("."))
    return (path / "__init__.py" if (ROOT / path).is_dir() else path.with_suffix(".py")).as_posix()


def counts(module: str) -> bool:
    """Whether what a stage writes may depend on this module."""
    path = file_of(module)
    if path.startswith("pipeline/") and path.count("/") == 1:
        return path in WRITERS
    return path.split("/")[1] not in CALLERS


@cache
def graph() -> grimp.ImportGraph:
    """Who imports whom, at the top or inside a function, of the modules that count."""
    found = grimp.build_graph("pipeline", "stages", cache_dir=None)
    for module in [each for each in found.modules if not file_of(each).endswith("__init__.py") and not counts(each)]:
        found.remove_module(module)
    return found


def used(stage: str) -> set[str]:
    """The repository's files that a stage can import and that count, its own among them."""
    starts = [f"stages.{stage}", *([TRAINER] if stage == "train" else [])]
    return {file_of(module) for start in starts for module in {start, *graph().find_upstream_modules(start)}}


def body(stage: str) -> dict:
    return STAGES[stage].get("do", STAGES[stage])


def code(stage: str) -> list[str]:
    return [entry for entry in body(stage)["deps"] if entry.startswith(("pipeline/", "stages/"))]


@pytest.mark.parametrize("stage", STAGES)
def test_a_stage_depends_on_all_it_imports_and_on_no_other_code(stage: str) -> None:
    files, listed = used(stage), code(stage)
    assert not {file for file in files if not any(file == entry or file.startswith(f"{entry}/") for entry in listed)}
    assert listed
    for entry in listed:
        assert (ROOT / entry).exists(), entry
        assert any(file == entry or file.startswith(f"{entry}/") for file in files), f"{entry} is not imported"


def test_a_training_depends_on_the_whole_folders_below_the_line_and_on_nothing_above_it() -> None:
    assert set(code("train")) == {"stages/train.py", *WRITERS, *(f"pipeline/{name}" for name in BELOW)}
    for stage in ("download", "convert", "evaluate"):
        for entry in code(stage):
            assert entry in {f"stages/{stage}.py", *WRITERS} or entry.split("/")[1] in BELOW, entry


def test_settings_stand_in_params_and_not_in_commands() -> None:
    for stage in STAGES:
        command = body(stage)["cmd"]
        assert command.split()[:3] == ["python", "-m", f"stages.{stage}"], command
        assert "${item." not in command, "an edited setting would also count as a changed command"


def test_the_stages_and_their_order_are_dvcs() -> None:
    stages = read_dag(load(ROOT / "params.yaml"))
    shown = subprocess.run(
        [sys.executable, "-m", "dvc", "dag", "--dot"], cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout
    edges = {tuple(word.strip(' ";') for word in line.split("->")) for line in shown.splitlines() if "->" in line}
    assert edges == {(needed, stage.name) for stage in stages.values() for needed in stage.needs}
    names = list(stages)
    assert all(names.index(needed) < names.index(stage.name) for stage in stages.values() for needed in stage.needs)


def test_what_a_stage_needs_and_what_needs_it() -> None:
    stages = read_dag(load(ROOT / "params.yaml"))
    assert with_needed(stages, [f"train@{RUN}"]) == ["download@cifar10", "convert@cifar10-rgb", f"train@{RUN}"]
    behind = with_behind(stages, [f"evaluate@{RUN}"])
    assert behind[f"evaluate@{RUN}"] is None
    assert behind["summarize"] == behind["tabulate@4"] == f"evaluate@{RUN}"
    assert f"train@{RUN}" not in behind


@pytest.mark.parametrize(
    ("file", "expected"),
    [
        ("pipeline/comparison/tables.py", {"summarize", "manifest", "tabulate", "report"}),
        ("pipeline/report/page.py", {"report"}),
        ("pipeline/models/resnet.py", {"train", "evaluate"}),
        ("pipeline/training/loop.py", {"train", "evaluate"}),
        ("pipeline/kernels/bn_relu.cpp", {"train"}),
        ("pipeline/runner/run_hooks.py", set()),
        ("environment/requirements.lock", {"train", "evaluate", "report"}),
        ("pipeline/tracking/mlflow_logger.py", set()),
        ("evidence/README.md", {"summarize", "manifest", "tabulate", "report"}),
    ],
)
def test_an_edit_makes_stale_what_depends_on_it_and_no_more(file: str, expected: set[str]) -> None:
    assert (ROOT / file).is_file()
    listed = {stage: [entry for entry in body(stage)["deps"] if isinstance(entry, str)] for stage in STAGES}
    found = {stage for stage, deps in listed.items() if any(file == dep or file.startswith(f"{dep}/") for dep in deps)}
    assert found == expected
