"""wrn-pipe verify on a finished project: clean, after every kind of edit by hand, and where files are not here."""

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from evidence.conftest import edited, lock, other_weights, rerecord
from project import RUN, Project
from ruamel.yaml import YAML

from pipeline.artifacts import Predictions
from pipeline.artifacts import read_predictions as read
from pipeline.atomic_write import json_text
from pipeline.cli.verify import TELLING, run_stage
from pipeline.evidence import recompute
from pipeline.evidence.run_check import Finding, of_plan
from pipeline.evidence.verification import Depth, verify
from pipeline.runner.dag import stages
from pipeline.runner.dvc import to_have
from pipeline.runner.params_file import load
from pipeline.tasks.classification import metrics
from pipeline.tasks.task import about
from pipeline.training.evaluate_run import digests

MODEL, EVALUATION = Path("models") / RUN, Path("evaluations") / RUN
BETON, RAW = Path("data/beton/cifar10-tiny-rgb"), Path("data/raw/cifar10-tiny")


def findings() -> list[Finding]:
    return list(verify(load(), run_stage, Depth()))


def wrong() -> str:
    """What is found wrong, a line each."""
    return "\n".join(f"{found.path}  {found.why}" for found in findings() if found.state == "wrong")


def replace(path: str | Path, old: str, new: str) -> None:
    text = Path(path).read_text()
    assert old in text
    Path(path).write_text(text.replace(old, new, 1))


def flip(path: str | Path, at: int) -> None:
    """Change one bit of a file, and give it back its time, so that DVC does not look."""
    times = os.stat(path)
    content = bytearray(Path(path).read_bytes())
    content[at] ^= 1
    Path(path).write_bytes(content)
    os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))


def fewer_errors(told: Any) -> None:
    """Metrics that agree with each other, and not with the predictions."""
    errors = told["errors"] - 10
    told.update(errors=errors, top1_error=round(100 * errors / told["n"], 6))


def predictions(column: str, change: Callable[[Any], Any]) -> None:
    path = EVALUATION / "predictions.parquet"
    table = pq.read_table(path)
    index = table.column_names.index(column)
    changed = change(table.column(column).to_numpy().copy())
    pq.write_table(table.set_column(index, column, pa.array(changed)), path, compression="zstd")


def swapped_labels() -> None:
    labels = np.load(RAW / "train_labels.npy")
    labels[[0, 1]] = (labels[[0, 1]] + 1) % 10
    np.save(RAW / "train_labels.npy", labels)


def remade() -> None:
    """All that follows from weights, history and predictions, made to fit them: what a thorough forger does."""
    told = about(load(), RUN) | metrics(*read(EVALUATION / "predictions.parquet"))
    (EVALUATION / "metrics.json").write_text(json_text(told))
    device = json.loads((EVALUATION / "digests.json").read_text())["device"]
    digests(RUN, MODEL, EVALUATION, BETON, device).write(EVALUATION / "digests.json")
    for stage in stages(Path.cwd()):
        if stage.in_git:
            run_stage(stage.command)
    lock(rerecord)


def test_a_clean_project_is_right_and_what_takes_long_is_not_checked(finished: Project) -> None:
    ran = finished.cli("verify")
    assert ran.returncode == 0, ran.stdout + ran.stderr
    assert ran.stdout.splitlines()[-2].endswith(" right, 0 wrong, 2 not checked.")
    for path, command in ((f"{EVALUATION}/predictions.parquet", f"--deep {RUN}"), (MODEL, f"--deeper {RUN}")):
        assert f"unchecked  {path}  " in ran.stdout
        assert f"wrn-pipe verify {command}\n" in ran.stdout
    for named in ("results/table-4.csv", "results/manifest.json", "results/runs.csv", f"{EVALUATION}/metrics.json"):
        assert f"right      {named}" in ran.stdout


def write(path: str | Path, content: str) -> None:
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    Path(path).write_text(content)


def without_manifest() -> None:
    """Neither DAG nor lock have the stage, whose result is edited."""
    yaml = YAML()
    dag = yaml.load(Path("dvc.yaml"))
    del dag["stages"]["manifest"]
    yaml.dump(dag, Path("dvc.yaml"))
    replace("results/manifest.json", '"not run"', '"reproduced"')
    lock(lambda told: told.pop("manifest"))


def forgotten(entries: Any) -> None:
    entries[1].update(md5="0" * 32)


Edit = tuple[str | Path, Callable[[], object], bool]
"""What is to be named, an edit, and whether dvc.lock is made to fit it."""
EDITS: list[list[Edit]] = [
    [
        (EVALUATION / "metrics.json", lambda: edited(EVALUATION / "metrics.json", fewer_errors), False),
        (MODEL / "run.json", lambda: replace(MODEL / "run.json", '"threads": ', '"threads": 6'), False),
        (f"dvc.lock: train@{RUN}", lambda: lock(lambda told: forgotten(told[f"train@{RUN}"]["outs"])), False),
        (f"dvc.lock: evaluate@{RUN}", lambda: lock(lambda told: forgotten(told[f"evaluate@{RUN}"]["deps"])), False),
        ("results/table-5.md", lambda: write("results/table-5.md", "reproduced"), False),
    ],
    [
        (EVALUATION / "predictions.parquet", lambda: predictions("prediction", lambda values: (values + 3) % 10), True),
        (RAW / "train_labels.npy", swapped_labels, True),
        (BETON / "train.beton", lambda: flip(BETON / "train.beton", 9000), True),
    ],
    [
        (EVALUATION / "predictions.parquet", lambda: predictions("label", lambda values: values[::-1]), True),
        (MODEL / "model.safetensors", lambda: other_weights(MODEL / "model.safetensors"), True),
        (MODEL / "history.csv", lambda: replace(MODEL / "history.csv", "\n2,", "\n3,"), True),
    ],
    [
        (EVALUATION / "predictions.parquet", lambda: predictions("label", lambda values: values + 90), False),
        (BETON / "card.json", lambda: replace(BETON / "card.json", '"images": 260', '"images": 261'), False),
        ("dvc.lock: train@", lambda: replace("params.yaml", "learning_rate: 0.1", "learning_rate: 0.2"), False),
    ],
    [
        (MODEL / "model.safetensors", lambda: flip(MODEL / "model.safetensors", -5), False),
        ("pipeline/models", lambda: flip("pipeline/models/resnet.py", 5), False),
        ("dvc.lock: invent", lambda: lock(lambda told: told.update(invent={"cmd": "true"})), False),
        (f"dvc.lock: train@{RUN}", lambda: lock(lambda told: told[f"train@{RUN}"].update(cmd="true")), False),
        ("results/manifest.json", without_manifest, False),
    ],
    [
        ("dvc.lock", lambda: write("dvc.lock", "stages: {"), False),
        ("results/runs.csv", lambda: replace("dvc.yaml", "stages.summarize", "stages.manifest"), False),
    ],
    [
        ("dvc.lock", lambda: Path("dvc.lock").unlink(), False),
        (
            EVALUATION / "run.json",
            lambda: edited(EVALUATION / "run.json", fingerprint="0" * 64),
            False,
        ),
        (
            EVALUATION / "digests.json",
            lambda: edited(EVALUATION / "digests.json", files={}),
            False,
        ),
    ],
]
"""Together those that do not give each other away, as looking takes seconds."""


@pytest.mark.parametrize("together", EDITS, ids=lambda edits: " + ".join(str(edit[0]) for edit in edits))
def test_an_edit_by_hand_is_found_and_named(copy: Project, together: list[Edit]) -> None:
    for _, edit, covered in together:
        edit()
        if covered:
            lock(rerecord)
    found = wrong().splitlines()
    for path, *_ in together:
        assert any(line.startswith(str(path)) for line in found), (path, found)


def test_what_is_not_here_or_outside_the_dag_is_not_passed_in_silence(copy: Project) -> None:
    """A clone with trainings outside DVC, and a run taken out of the plan, whose entry DVC leaves in dvc.lock."""
    shutil.rmtree("data")
    (MODEL / "model.safetensors").unlink()
    (EVALUATION / "predictions.parquet").unlink()
    write("results/fast/curve.csv", "top1_error\n0.1\n")
    lock(lambda told: told.update({"train@gone": told[f"train@{RUN}"]}))
    found = findings()
    assert not [each for each in found if each.state == "wrong"]
    unchecked = {each.path: each.why for each in found if each.state == "unchecked"}
    expected = {str(RAW), str(BETON), f"{MODEL}/model.safetensors", f"{EVALUATION}/predictions.parquet"}
    assert expected | {f"{EVALUATION}/metrics.json"} <= unchecked.keys()
    assert "no stage makes it" in unchecked["results/fast/curve.csv"]
    assert "train@gone" in unchecked["dvc.lock"]
    results = {each.state for each in found if each.path.startswith("results/") and "/fast/" not in each.path}
    assert results == {"right"}, "they follow from what git has of the runs"
    assert not any("dvc pull" in each.fix for each in found), "there is no remote"
    write(".dvc/config.local", "[core]\n    remote = shared\n['remote \"shared\"']\n    url = ../shared\n")
    assert to_have("download").startswith("dvc pull, or wrn-pipe repro")


def test_a_planned_run_that_has_not_run_is_not_wrong_but_the_tables_are_older_than_it(copy: Project) -> None:
    copy.edit(lambda params: params["runs"].update({f"{RUN[:-1]}2": {**params["runs"][RUN], "seed": 2}}))
    found = {(each.path, each.state) for each in findings() if each.state != "right"}
    assert (f"dvc.lock: train@{RUN[:-1]}2", "unchecked") in found
    assert {path for path, state in found if state == "wrong"} == {
        f"dvc.lock: {stage}" for stage in ("summarize", "tabulate@4", "manifest", "report")
    }
    for name in ("table-4.csv", "table-4.md", "report.html"):
        replace(f"results/{name}", "6.85", "6.95")
    lock(rerecord)
    named = wrong()
    assert "results/table-4.csv  is not what tabulate@4 makes of the runs here: line 3" in named
    assert "results/table-4.md  is not" in named
    assert "results/report.html  is not" in named


def test_a_forgery_that_fits_is_unchecked_and_found_by_deep(copy: Project) -> None:
    other_weights(MODEL / "model.safetensors")
    replace(MODEL / "history.csv", "\n2,", "\n2,0")
    remade()
    found = findings()
    assert not [each for each in found if each.state == "wrong"]
    assert {each.path for each in found if each.state == "unchecked"} == {
        f"{EVALUATION}/predictions.parquet",
        str(MODEL),
    }
    deep = list(verify(load(), run_stage, Depth(deep=True)))
    assert [each.path for each in deep if each.state == "wrong"] == [f"{EVALUATION}/predictions.parquet"]
    assert [each.path for each in deep if each.state == "unchecked"] == [str(MODEL)]


def test_only_what_rounding_explains_is_near() -> None:
    def told(*probabilities: list[float], label: int = 0) -> Predictions:
        array = np.array(probabilities)
        return Predictions(np.full(len(array), label), array.argmax(1), array)

    its = told([0.5, 0.49999, 0.00001], [0.9, 0.1, 0.0])
    rounded = told([0.49999, 0.5, 0.00001], [0.9, 0.1, 0.0])
    for again, same, near in (
        (its, True, True),
        (rounded, False, True),
        (rounded._replace(predicted=np.array([2, 0])), False, False),
        (its._replace(labels=its.labels + 1), False, False),
        (told([0.5, 0.49999, 0.00001], [0.8, 0.2, 0.0]), False, False),
    ):
        assert recompute._compared(again, its)[:2] == (same, near)


def test_another_build_of_torch_may_round_otherwise(copy: Project) -> None:
    predictions("probability_3", lambda column: column + np.float32(1e-5))
    run, plan = of_plan(load(), RUN), load()
    assert recompute.evaluated(run, plan).why.endswith("on the same kind of machine")
    for folder in (MODEL, EVALUATION):
        replace(folder / "run.json", '"torch": "', '"torch": "1')
    found = recompute.evaluated(run, plan)
    assert (found.state, found.why[-36:]) == ("right", "on another kind of machine, or torch")
    replace(MODEL / "history.csv", "\n1,0.", "\n1,1.")
    assert [each.state for each in recompute.trained(load(), RUN, 1)] == ["unchecked", "unchecked"]


def test_deeper_trains_again_to_the_same_bits(copy: Project) -> None:
    whole = list(recompute.trained(load(), RUN, None))
    assert [(each.path, each.state) for each in whole] == [
        (f"{MODEL}/history.csv", "right"),
        (f"{MODEL}/model.safetensors", "right"),
    ]
    other_weights(MODEL / "model.safetensors")
    replace(MODEL / "history.csv", "\n1,0.", "\n1,1.")
    one = list(recompute.trained(load(), RUN, 1))
    assert [each.state for each in one] == ["wrong", "unchecked"]
    assert "learning_rate in epoch 1" in one[0].why
    assert [each.state for each in recompute.trained(load(), RUN, None)] == ["wrong", "wrong"]
    assert not Path("scratch").exists() or not list(Path("scratch").glob("*/epoch*"))


def test_every_stage_that_git_keeps_results_of_can_be_made_again(finished: Project) -> None:
    assert {stage.kind for stage in stages(finished.root) if stage.in_git} <= set(TELLING)
