"""dvc.yaml against the code: a stage depends on every module that can change what it writes."""

import ast
from pathlib import Path

import pytest
from ruamel.yaml import YAML

from pipeline.kernels.build_kernels import SOURCES

ROOT = Path(__file__).resolve().parents[1]
STAGES = YAML(typ="safe", pure=True).load(ROOT / "dvc.yaml")["stages"]
NATIVE = "pipeline/kernels/build_kernels.py"

CANNOT_CHANGE_A_RESULT = {
    "pipeline/errors.py": "messages and exit codes",
    "pipeline/runner/interruptions.py": "the same, for signals",
    "pipeline/progress.py": "bars and log lines",
    "pipeline/signals.py": "when a process stops, not what it has computed",
    "pipeline/runner/waiting.py": "how threads wait for each other, not what they compute",
    "pipeline/provenance.py": "the fingerprint hashes what a result depends on",
    "pipeline/params.py": "values reach the code as they stand in params.yaml, which DVC watches itself",
    "pipeline/dvc_lock.py": "whether a stage refuses to write, not what it writes",
    "pipeline/training/device_choice.py": "on what it trains, which run.json says",
    "pipeline/runner/checkpoint_interval.py": "when a state is saved, not what it holds",
    "pipeline/runner/run_lock.py": "who may train",
    "pipeline/runner/training_interruptions.py": "messages and exit codes",
    "pipeline/runner/heartbeat.py": "what is shown of a training, not what it computes",
    "pipeline/dataset_config.py": "the same, for datasets",
    "pipeline/tracking/mlflow_logger.py": "MLflow only shows what the files say",
    "pipeline/tracking/store.py": "the same",
}


def imported(path: Path) -> set[Path]:
    """Files of this repository that a module imports, at its top or inside a function."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        names: list[str] = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module:
            names = [node.module, *(f"{node.module}.{alias.name}" for alias in node.names)]
        for name in names:
            module = ROOT / Path(*name.split("."))
            for candidate in (module.with_suffix(".py"), module / "__init__.py"):
                if candidate.is_file() and candidate.stat().st_size:
                    found.add(candidate)
    return found


def closure(path: Path) -> set[str]:
    """All of the repository's files that running `path` can import, as far as results go."""
    seen: set[Path] = set()
    waiting = [path]
    while waiting:
        current = waiting.pop()
        if current in seen:
            continue
        seen.add(current)
        if current.relative_to(ROOT).as_posix() not in CANNOT_CHANGE_A_RESULT:
            waiting.extend(imported(current))
    return {file.relative_to(ROOT).as_posix() for file in seen}


def body(stage: str) -> dict:
    return STAGES[stage].get("do", STAGES[stage])


@pytest.mark.parametrize("stage", STAGES)
def test_a_stage_depends_on_all_it_imports(stage: str) -> None:
    listed = body(stage)["deps"]
    missing = {
        file
        for file in closure(ROOT / "stages" / f"{stage}.py") - set(CANNOT_CHANGE_A_RESULT)
        if not any(file == entry or file.startswith(f"{entry}/") for entry in listed)
    }
    assert not missing


@pytest.mark.parametrize("stage", STAGES)
def test_a_stage_depends_on_no_code_that_it_does_not_import(stage: str) -> None:
    used = closure(ROOT / "stages" / f"{stage}.py")
    code = [entry for entry in body(stage)["deps"] if entry.startswith(("pipeline/", "stages/"))]
    assert code
    for entry in code:
        assert (ROOT / entry).exists(), entry
        module = NATIVE if entry.endswith((".cpp", ".h")) else entry  # what is compiled belongs to what compiles it
        assert any(file == module or file.startswith(f"{entry}/") for file in used), f"{entry} is not imported"


@pytest.mark.parametrize("stage", STAGES)
def test_a_stage_depends_on_all_that_is_compiled_for_it(stage: str) -> None:
    if NATIVE in closure(ROOT / "stages" / f"{stage}.py"):
        assert {source.relative_to(ROOT).as_posix() for source in SOURCES} <= set(body(stage)["deps"])


@pytest.mark.parametrize("stage", STAGES)
def test_every_stage_has_a_description_and_a_dependency(stage: str) -> None:
    assert len(body(stage)["desc"]) > 10
    assert body(stage)["deps"], "DVC keeps no run cache for a stage without dependencies"


def test_how_tables_are_printed_makes_no_training_stale() -> None:
    for stage in ("download", "convert", "train", "evaluate"):
        assert not any(
            word in entry for entry in body(stage)["deps"] for word in ("comparison", "publication", "report")
        )


def test_the_exempt_modules_exist() -> None:
    for name in CANNOT_CHANGE_A_RESULT:
        assert (ROOT / name).is_file(), name


def test_settings_stand_in_params_and_not_in_commands() -> None:
    for stage in STAGES:
        command = body(stage)["cmd"]
        assert command.split()[:3] == ["python", "-m", f"stages.{stage}"], command
        assert "${item." not in command, "an edited setting would also count as a changed command"
