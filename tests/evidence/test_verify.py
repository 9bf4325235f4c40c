"""wrn-pipe verify on a finished project: clean, after every kind of edit by hand, and where files are not here."""

import json
import shutil
from collections.abc import Callable
from contextlib import chdir
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from project import RUN, Project
from ruamel.yaml import YAML
from safetensors.numpy import load_file, save_file
from typer.testing import CliRunner

from pipeline.artifacts import read_predictions as read
from pipeline.atomic_write import json_text
from pipeline.cli.main import app
from pipeline.cli.verify import TELLING, run_stage
from pipeline.errors import UserError
from pipeline.evidence import recompute
from pipeline.evidence.findings import Finding
from pipeline.evidence.lock_check import Disk
from pipeline.evidence.verification import verify
from pipeline.runner.dag import stages
from pipeline.runner.params_file import load
from pipeline.tasks.classification import about, metrics
from pipeline.training.evaluate_run import digests

MODEL, EVALUATION = Path("models") / RUN, Path("evaluations") / RUN
BETON, RAW = Path("data/beton/cifar10-tiny-rgb"), Path("data/raw/cifar10-tiny")


def findings() -> list[Finding]:
    return list(verify(load(), run_stage))


def wrong() -> str:
    """What is found wrong, a line each."""
    return "\n".join(f"{found.path}  {found.why}" for found in findings() if found.state == "wrong")


def replace(path: str | Path, old: str, new: str) -> Callable[[], None]:
    def edit() -> None:
        text = Path(path).read_text()
        assert old in text
        Path(path).write_text(text.replace(old, new, 1))

    return edit


def flip(path: str | Path, at: int) -> Callable[[], None]:
    """Change one bit of a file, and give it back its time, so that DVC does not look."""

    def edit() -> None:
        import os

        times = os.stat(path)
        content = bytearray(Path(path).read_bytes())
        content[at] ^= 1
        Path(path).write_bytes(content)
        os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))

    return edit


def json_edit(path: Path, **values: Any) -> Callable[[], None]:
    def edit() -> None:
        told = json.loads(path.read_text())
        assert any(told[key] != value for key, value in values.items())
        path.write_text(json.dumps(told | values, indent=2, sort_keys=True, ensure_ascii=False) + "\n")

    return edit


def fewer_errors() -> None:
    """Metrics that agree with each other, and not with the predictions."""
    told = json.loads((EVALUATION / "metrics.json").read_text())
    errors = told["errors"] - 10
    json_edit(EVALUATION / "metrics.json", errors=errors, top1_error=round(100 * errors / told["n"], 6))()


def predictions(column: str, change: Callable[[Any], Any]) -> Callable[[], None]:
    def edit() -> None:
        path = EVALUATION / "predictions.parquet"
        table = pq.read_table(path)
        index = table.column_names.index(column)
        changed = change(table.column(column).to_numpy().copy())
        pq.write_table(table.set_column(index, column, pa.array(changed)), path, compression="zstd")

    return edit


def first_is_three(values: Any) -> Any:
    values[0] = (values[0] + 3) % 10
    return values


def heavier() -> None:
    tensors = {name: np.asarray(tensor) for name, tensor in load_file(MODEL / "model.safetensors").items()}
    name = next(name for name in tensors if name.endswith("conv2.weight"))
    tensors[name] = tensors[name] * 2
    save_file(tensors, MODEL / "model.safetensors")


def swapped_labels() -> None:
    path = RAW / "train_labels.npy"
    labels = np.load(path)
    labels[[0, 1]] = (labels[[0, 1]] + 1) % 10
    np.save(path, labels)


def lock(change: Callable[[Any], None]) -> Callable[[], None]:
    def edit() -> None:
        yaml = YAML()
        told = yaml.load(Path("dvc.lock"))
        before = json.dumps(told)
        change(told["stages"])
        assert json.dumps(told) != before
        yaml.dump(told, Path("dvc.lock"))

    return edit


def rerecord(told: Any) -> None:
    """What dvc.lock has of every file, as it is now: what somebody does who edits a file and covers it up."""
    disk = Disk(Path.cwd())
    for stage in told.values():
        for entry in (*stage.get("deps", ()), *stage["outs"]):
            if Path(entry["path"]).exists():
                entry["md5"] = disk.md5(entry["path"])


def covered(edit: Callable[[], None]) -> Callable[[], None]:
    def both() -> None:
        edit()
        lock(rerecord)()

    return both


def remade() -> None:
    """All that follows from weights, history and predictions, made to fit them: what a thorough forger does."""
    told = about(load(), RUN) | metrics(*read(EVALUATION / "predictions.parquet"))
    (EVALUATION / "metrics.json").write_text(json_text(told))
    device = json.loads((EVALUATION / "digests.json").read_text())["device"]
    digests(RUN, MODEL, EVALUATION, BETON, device).write(EVALUATION / "digests.json")
    for stage in stages(Path.cwd()):
        if stage.in_git:
            run_stage(stage.command)
    lock(rerecord)()


def one_error_less() -> None:
    """The probabilities of a wrong prediction and of the right class, swapped."""
    path = EVALUATION / "predictions.parquet"
    columns = pq.read_table(path).to_pydict()
    at = next(at for at, label in enumerate(columns["label"]) if columns["prediction"][at] != label)
    said, label = (f"probability_{columns[name][at]}" for name in ("prediction", "label"))
    columns[said][at], columns[label][at] = columns[label][at], columns[said][at]
    columns["prediction"][at] = columns["label"][at]
    pq.write_table(pa.table(columns, schema=pq.read_schema(path)), path, compression="zstd")


def test_a_clean_project_is_right_and_what_takes_long_is_not_checked(finished: Project) -> None:
    ran = finished.cli("verify")
    assert ran.returncode == 0, ran.stdout + ran.stderr
    assert ran.stdout.splitlines()[-2].endswith(" right, 0 wrong, 2 not checked.")
    for path, command in ((f"{EVALUATION}/predictions.parquet", "--deep"), (MODEL, f"--deeper {RUN}")):
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
    replace("results/manifest.json", '"not run"', '"reproduced"')()
    lock(lambda told: told.pop("manifest"))()


EDITS: list[list[tuple[str | Path, Callable[[], None]]]] = [
    [
        (EVALUATION / "metrics.json", fewer_errors),
        (MODEL / "run.json", replace(MODEL / "run.json", '"threads": ', '"threads": 6')),
        (f"dvc.lock: train@{RUN}", lock(lambda told: told[f"train@{RUN}"].update(cmd="true"))),
        ("results/table-5.md", lambda: write("results/table-5.md", "reproduced")),
    ],
    [
        (EVALUATION / "predictions.parquet", covered(predictions("prediction", first_is_three))),
        (RAW / "train_labels.npy", covered(swapped_labels)),
        (BETON / "train.beton", covered(flip(BETON / "train.beton", 9000))),
    ],
    [
        (EVALUATION / "predictions.parquet", covered(predictions("label", lambda values: values[::-1]))),
        (MODEL / "history.csv", covered(replace(MODEL / "history.csv", "\n2,", "\n3,"))),
    ],
    [
        (EVALUATION / "predictions.parquet", predictions("label", lambda values: values + 90)),
        (BETON / "card.json", replace(BETON / "card.json", '"images": 260', '"images": 261')),
    ],
    [
        (MODEL / "model.safetensors", covered(heavier)),
        (MODEL / "history.csv", covered(replace(MODEL / "history.csv", "2,", "2,0.00"))),
    ],
    [
        (MODEL / "model.safetensors", flip(MODEL / "model.safetensors", -5)),
        ("pipeline/models", flip("pipeline/models/resnet.py", 5)),
        ("dvc.lock: invent", lock(lambda told: told.update(invent={"cmd": "true"}))),
    ],
    [
        (EVALUATION / "run.json", json_edit(EVALUATION / "run.json", fingerprint="0" * 64)),
        (EVALUATION / "digests.json", json_edit(EVALUATION / "digests.json", files={})),
        (
            f"dvc.lock: evaluate@{RUN}",
            lock(lambda told: told[f"evaluate@{RUN}"]["deps"][0].update(md5="0" * 32)),
        ),
    ],
    [
        (f"dvc.lock: train@{RUN}", lock(lambda told: told[f"train@{RUN}"]["outs"][1].update(md5="0" * 32))),
        ("results/runs.csv", replace("dvc.yaml", "python -m stages.summarize", "python -m stages.manifest")),
    ],
    [("dvc.lock: train@", replace("params.yaml", "learning_rate: 0.1", "learning_rate: 0.2"))],
    [("dvc.lock", lambda: write("dvc.lock", "stages: {"))],
    [("dvc.lock", lambda: Path("dvc.lock").unlink())],
    [("results/manifest.json", without_manifest)],
]
"""What is to be named, and an edit; together those that do not give each other away, as looking takes seconds."""


@pytest.mark.parametrize("together", EDITS, ids=lambda edits: " + ".join(str(path) for path, _ in edits))
def test_an_edit_by_hand_is_found_and_named(copy: Project, together: list[tuple[Path, Callable[[], None]]]) -> None:
    for _, edit in together:
        edit()
    found = wrong().splitlines()
    for path, _ in together:
        assert any(line.startswith(str(path)) for line in found), (path, found)


def test_an_edit_and_what_follows_from_it_are_told_to_programs(copy: Project) -> None:
    fewer_errors()
    ran = CliRunner().invoke(app, ["verify", "--json"])
    assert ran.exit_code == 1
    told = json.loads(ran.stdout)
    named = {found["path"] for found in told["findings"] if found["state"] == "wrong"}
    assert {f"{EVALUATION}/metrics.json", "results/runs.csv", "results/manifest.json"} <= named
    assert told["wrong"] == sum(found["state"] == "wrong" for found in told["findings"])


def test_no_file_of_another_place_is_read(copy: Project) -> None:
    path, foreign = EVALUATION / "digests.json", f"{MODEL}/../../params.yaml"
    json_edit(path, files=json.loads(path.read_text())["files"] | {foreign: "0" * 64})()
    assert f"{path}  is not what its files" in wrong()
    assert not [each for each in findings() if each.path == foreign]


def as_cloned() -> None:
    """What git has, and nothing from DVC."""
    shutil.rmtree("data")
    (MODEL / "model.safetensors").unlink()
    (EVALUATION / "predictions.parquet").unlink()


def test_what_is_not_here_is_not_passed_in_silence(copy: Project) -> None:
    as_cloned()
    found = findings()
    assert not [each for each in found if each.state == "wrong"]
    named = {each.path for each in found if each.state == "unchecked"}
    expected = {str(RAW), str(BETON), f"{MODEL}/model.safetensors", f"{EVALUATION}/predictions.parquet"}
    assert expected | {f"{EVALUATION}/metrics.json"} <= named
    results = {each.state for each in found if each.path.startswith("results/")}
    assert results == {"right"}, "they follow from what git has of the runs"
    assert not any("dvc pull" in each.fix for each in found), "there is no remote"
    write(".dvc/config.local", "[core]\n    remote = shared\n['remote \"shared\"']\n    url = ../shared\n")
    assert "dvc pull, or wrn-pipe repro" in next(each.fix for each in findings() if each.path == str(RAW))


COMMITTED = {
    "a verdict for readers": ("results/table-4.md", replace("results/table-4.md", "| not run", "| reproduced")),
    "a metric": ("results/runs.csv", fewer_errors),
    "a run less": ("results/manifest.json", json_edit(Path("results/manifest.json"), runs={})),
    "the report": ("results/report.html", replace("results/report.html", "6.85", "6.84")),
}


@pytest.mark.parametrize("what", COMMITTED)
def test_committed_files_are_compared_with_each_other_where_nothing_else_is(copy: Project, what: str) -> None:
    """A fresh clone, whose dvc.lock the forger has made to fit."""
    as_cloned()
    path, edit = COMMITTED[what]
    covered(edit)()
    assert path in {each.path for each in findings() if each.state == "wrong"}


def test_results_outside_the_dag_are_not_passed_in_silence(copy: Project) -> None:
    """Trainings outside DVC, and a run that was taken out of the plan, whose entry DVC leaves in dvc.lock."""
    write("results/fast/curve.csv", "top1_error\n0.1\n")
    lock(lambda told: told.update({"train@gone": told[f"train@{RUN}"]}))()
    found = findings()
    assert not [each for each in found if each.state == "wrong"]
    told = {(each.path, each.state): each.why for each in found}
    assert "no stage makes it" in told["results/fast/curve.csv", "unchecked"]
    assert "train@gone" in told["dvc.lock", "unchecked"]


def test_a_planned_run_that_has_not_run_is_not_wrong_but_the_tables_are_older_than_it(copy: Project) -> None:
    copy.edit(lambda params: params["runs"].update({f"{RUN[:-1]}2": {**params["runs"][RUN], "seed": 2}}))
    found = {(each.path, each.state) for each in findings() if each.state != "right"}
    assert (f"dvc.lock: train@{RUN[:-1]}2", "unchecked") in found
    assert {path for path, state in found if state == "wrong"} == {
        f"dvc.lock: {stage}" for stage in ("summarize", "tabulate@4", "manifest", "report")
    }
    covered(replace("results/table-4.csv", "6.85", "6.95"))()
    assert "results/table-4.csv  is not what tabulate@4 makes of the runs here: line 3" in wrong()


def test_a_forgery_that_fits_is_unchecked_and_found_by_deep(copy: Project) -> None:
    one_error_less()
    replace(MODEL / "history.csv", "\n2,", "\n2,0")()
    remade()
    found = findings()
    assert not [each for each in found if each.state == "wrong"]
    assert {each.path for each in found if each.state == "unchecked"} == {
        f"{EVALUATION}/predictions.parquet",
        str(MODEL),
    }
    deep = list(verify(load(), run_stage, deep=True))
    assert [each.path for each in deep if each.state == "wrong"] == [f"{EVALUATION}/predictions.parquet"]
    assert [each.path for each in deep if each.state == "unchecked"] == [str(MODEL)]


def test_deep_finds_weights_that_do_not_predict_what_is_said(copy: Project) -> None:
    (same,) = recompute.evaluated(load(), RUN)
    assert same.state == "right"
    assert "same bits" in same.why
    heavier()
    (other,) = recompute.evaluated(load(), RUN)
    assert (other.path, other.state) == (f"{EVALUATION}/predictions.parquet", "wrong")


@pytest.mark.parametrize("content", ["{", "{}", "[]"])
def test_deep_says_in_two_lines_that_the_digests_are_broken(copy: Project, content: str) -> None:
    """What the file is, and what could not be looked at for want of it."""
    heavier()
    (EVALUATION / "digests.json").unlink()  # a link into DVC's cache
    (EVALUATION / "digests.json").write_text(content)
    ran = CliRunner().invoke(app, ["verify", "--deep"])
    assert isinstance(ran.exception, SystemExit), ran.exception
    assert ran.exit_code == 1
    lines = [line for line in ran.output.splitlines() if "not a record" in line or "does not say" in line]
    lines = [line for line in lines if f"  {EVALUATION}/" in line]
    assert [line.split()[:2] for line in lines] == [
        ["wrong", f"{EVALUATION}/digests.json"],
        ["unchecked", f"{EVALUATION}/predictions.parquet"],
    ]


def test_deeper_trains_again_to_the_same_bits(copy: Project) -> None:
    whole = list(recompute.trained(load(), RUN, None))
    assert [(each.path, each.state) for each in whole] == [
        (f"{MODEL}/history.csv", "right"),
        (f"{MODEL}/model.safetensors", "right"),
    ]
    heavier()
    replace(MODEL / "history.csv", "\n1,0.", "\n1,1.")()
    one = list(recompute.trained(load(), RUN, 1))
    assert [each.state for each in one] == ["wrong", "unchecked"]
    assert "learning_rate in epoch 1" in one[0].why
    assert [each.state for each in recompute.trained(load(), RUN, None)] == ["wrong", "wrong"]
    assert not Path("scratch").exists() or not list(Path("scratch").glob("*/epoch*"))


def test_every_stage_that_git_keeps_results_of_can_be_made_again(finished: Project) -> None:
    made = {stage.name.split("@")[0] for stage in stages(finished.root) if stage.in_git}
    assert made <= set(TELLING)


@pytest.mark.parametrize(
    ("arguments", "what"),
    [
        (["--epochs", "1"], "--epochs without --deeper"),
        (["--bundle", "x.zip", "--deep"], "--bundle with --deep"),
        (["--deeper", "x"], "has no run 'x'"),
        (["--bundle", "x.zip"], "x.zip"),
    ],
)
def test_mistakes_are_told(finished: Project, arguments: list[str], what: str) -> None:
    with chdir(finished.root):
        ran = CliRunner().invoke(app, ["verify", *arguments])
    assert isinstance(ran.exception, UserError)
    assert what in ran.exception.what
    assert ran.exception.remedy


def test_a_broken_plan_is_told_in_two_lines_to_programs_too(copy: Project) -> None:
    write("params.yaml", "runs: [\n")
    ran = CliRunner().invoke(app, ["verify", "--json"])
    assert isinstance(ran.exception, UserError)
    assert ran.stdout == ""
