"""A project of two runs: whatever is checked of the first is checked of the second as well."""

import json
import shutil
from functools import reduce
from pathlib import Path
from typing import Any

import pytest
from project import RUN, Project
from ruamel.yaml import YAML
from test_verify import BETON, findings, flip, json_edit, lock, replace, rerecord

from pipeline.artifacts import read_predictions as read
from pipeline.atomic_write import json_text
from pipeline.cli.verify import TELLING, run_stage
from pipeline.evidence.findings import Finding
from pipeline.provenance import fingerprint
from pipeline.runner.dag import stages
from pipeline.runner.params_file import load
from pipeline.tasks.classification import about, metrics
from pipeline.training.evaluate_run import digests

SECOND = RUN.replace("-s1", "-s2")
MODEL, EVALUATION = Path("models") / SECOND, Path("evaluations") / SECOND
MANIFEST = "results/manifest.json"


@pytest.fixture
def two(copy: Project) -> Project:
    """The finished project with a second run, which is the first one under another seed: all that verify computes
    without a training agrees, and no training has to be waited for."""
    copy.edit(lambda params: params["runs"].update({SECOND: {**params["runs"][RUN], "seed": 2}}))
    plan = load()
    for folder in (MODEL, EVALUATION):
        shutil.copytree(folder.with_name(RUN), folder)
    record = json.loads((MODEL / "run.json").read_text()) | {"run": SECOND, "seed": 2}
    for folder in (MODEL, EVALUATION):
        (folder / "run.json").write_text(json_text(record | {"fingerprint": fingerprint(plan, SECOND)}))
    told = about(plan, SECOND) | metrics(*read(EVALUATION / "predictions.parquet"))
    (EVALUATION / "metrics.json").write_text(json_text(told))
    device = json.loads((EVALUATION / "digests.json").read_text())["device"]
    digests(SECOND, MODEL, EVALUATION, BETON, device).write(EVALUATION / "digests.json")
    for stage in stages(Path.cwd()):
        if stage.kind in TELLING:
            run_stage(stage.command)
    lock(with_second)()
    return copy


def with_second(told: Any) -> None:
    """DVC's entries of the second run's stages, made from those of the first."""
    settings = YAML(typ="safe", pure=True).load(Path("params.yaml"))
    for kind in ("train", "evaluate"):
        told[f"{kind}@{SECOND}"] = json.loads(json.dumps(told[f"{kind}@{RUN}"]).replace(RUN, SECOND))
    for stage in stages(Path.cwd()):
        if stage.params:
            named = {name: reduce(lambda value, key: value[key], name.split("."), settings) for name in stage.params}
            told[stage.name]["params"] = {"params.yaml": named}
    rerecord(told)


def of(run: str, found: list[Finding]) -> set[tuple[str, str]]:
    return {(each.path.replace(run, "RUN"), each.state) for each in found if run in each.path}


def test_both_runs_are_checked_in_all_ways(two: Project) -> None:
    found = findings()
    assert [each for each in found if each.state == "wrong"] == []
    assert of(SECOND, found) == of(RUN, found)
    assert (f"{EVALUATION}/predictions.parquet".replace(SECOND, "RUN"), "unchecked") in of(SECOND, found)


def test_what_is_wrong_with_the_second_run_is_found(two: Project) -> None:
    """And covered up in dvc.lock, so that only its files can tell."""
    replace(MODEL / "history.csv", "2,", "3,")()
    flip(MODEL / "model.safetensors", -5)()
    json_edit(MODEL / "run.json", epochs=3)()
    json_edit(EVALUATION / "run.json", fingerprint="0" * 64)()
    json_edit(EVALUATION / "metrics.json", errors=1)()
    lock(rerecord)()
    wrong = {each.path for each in findings() if each.state == "wrong"}
    files = {str(MODEL / name) for name in ("history.csv", "model.safetensors", "run.json")}
    assert wrong >= files | {str(EVALUATION / name) for name in ("run.json", "metrics.json")}
    assert not [path for path in wrong if RUN in path]
