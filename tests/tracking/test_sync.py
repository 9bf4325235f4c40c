"""wrn-pipe track sync: MLflow's records follow the files, whatever happened to either, and tell no secret."""

import csv
import hashlib
import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from mlflow.entities import ViewType
from project import Project
from tracking.conftest import FIRST, SECOND, Place, copy
from typer.testing import CliRunner

from pipeline.artifacts import EpochRecord
from pipeline.cli.main import app, main
from pipeline.errors import UserError
from pipeline.publication.wide_resnet import PAPER
from pipeline.runner.params_file import load
from pipeline.tracking.mlflow_logger import mirrored
from pipeline.tracking.run_record import finished
from pipeline.tracking.store import name as store_name
from pipeline.tracking.store import uri
from pipeline.tracking.sync import log_runs


def everything(place: Place) -> dict[str, Any]:
    """All that MLflow shows of the runs, without its own ids and times."""
    mlflow = place.client()
    shown = {}
    for name, run in place.runs().items():
        key = run.info.run_id
        shown[name] = {
            "status": run.info.status,
            "tags": run.data.tags,
            "params": run.data.params,
            "metrics": {
                k: sorted((m.step, m.value) for m in mlflow.get_metric_history(key, k))
                for k in run.data.metrics
                if not k.startswith("system/")
            },
            "data": [(d.dataset.name, d.dataset.digest) for d in run.inputs.dataset_inputs],
        }
    return shown


def by_files(shown: dict[str, Any]) -> dict[str, Any]:
    """The part of `everything` that files say."""
    for run in shown.values():
        run["metrics"].pop("images_per_second", None)
    return shown


def test_a_run_shows_what_its_files_say(place: Place, synced: tuple[Path, list[str]]) -> None:
    assert synced[1] == [
        # DVC had not written its lock when it was evaluated, and the second was not there to be compared with.
        f"changed   {FIRST}: tags dvc_lock, mlflow.note.content",
        f"made      {SECOND}",
        "tracking/mlflow.db: 1 changed, 1 made",
    ]
    shown = everything(place)
    assert shown.keys() == {FIRST, SECOND}
    for name, run in shown.items():
        record = json.loads((place.root / "models" / name / "run.json").read_text())
        values = json.loads((place.root / "evaluations" / name / "metrics.json").read_text())
        tags = run["tags"]
        assert run["status"] == "FINISHED"
        assert tags["fingerprint"] == record["fingerprint"]
        assert tags["dataset"], tags["network"] == ("cifar10", "WRN-40-1")
        assert (tags["protocol"], tags["seed"], tags["tables"]) == ("brief", str(record["seed"]), "4")
        assert tags["verdict"] == "not comparable"
        assert "**not comparable** - Table 4, WRN-40-1 on CIFAR-10" in tags["mlflow.note.content"]
        assert "epochs: 2 instead of 200" in tags["mlflow.note.content"]
        assert (tags["dvc_stage"], len(tags["dvc_lock"])) == (f"train@{name}", 64)
        assert (len(tags["commit"]), tags["dirty"]) == (40, "false")
        assert run["params"]["peak_learning_rate"] == str(record["protocol"]["learning_rate"])
        assert run["params"]["schedule.kind"] == "one-cycle"
        assert not run["params"].keys() & run["metrics"].keys()
        rows = list(csv.DictReader((place.root / "models" / name / "history.csv").open()))
        for column in ("train_loss", "train_error", "learning_rate"):
            assert run["metrics"][column] == [(int(row["epoch"]), float(row[column])) for row in rows]
        assert run["metrics"]["test_top1_error"] == [(2, values["top1_error"])]
        card = json.loads((place.root / "data/beton/cifar10-rgb/card.json").read_text())
        assert run["data"] == [("cifar10-rgb-train", card["splits"]["train"]["digest"][:32])]
        weights = place.root / "models" / name / "model.safetensors"
        assert tags["weights_sha256"] == hashlib.sha256(weights.read_bytes()).hexdigest()
    # Only the first was recorded while it trained.
    assert len(shown[FIRST]["metrics"]["images_per_second"]) == 2
    assert "images_per_second" not in shown[SECOND]["metrics"]


def test_again_changes_nothing(place: Place) -> None:
    before, runs = everything(place), {name: run.info.run_id for name, run in place.runs().items()}
    log_runs(PAPER, load(), [FIRST, SECOND])  # as when jobs have trained and their files are published
    said = place.sync()
    assert said == [f"as it was {FIRST}", f"as it was {SECOND}", "tracking/mlflow.db: 2 as they were"]
    assert everything(place) == before
    assert {name: run.info.run_id for name, run in place.runs().items()} == runs


def test_a_program_reads_what_was_done(place: Place) -> None:
    place.client().set_tag(place.runs()[SECOND].info.run_id, "verdict", "reproduced")
    said = CliRunner().invoke(app, ["track", "sync", "--json"], catch_exceptions=False)
    assert json.loads(said.stdout) == {
        "store": "tracking/mlflow.db",
        "runs": [
            {"run": FIRST, "done": "as it was", "changes": []},
            {"run": SECOND, "done": "changed", "changes": ["tags verdict"]},
        ],
        "not_trained": 0,
    }


def test_a_wiped_database_is_rebuilt(trained: Project, place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    before = by_files(everything(place))
    # In a folder of its own: MLflow holds on to a database that this process has opened.
    wiped = copy(trained.root, place.root.parent / "wiped", monkeypatch)
    shutil.rmtree(wiped.root / "tracking")
    assert wiped.sync()[:2] == [f"made      {FIRST}", f"made      {SECOND}"]
    assert by_files(everything(wiped)) == before


def test_what_was_deleted_or_edited_by_hand_comes_back(place: Place) -> None:
    before, mlflow = everything(place), place.client()
    mlflow.delete_run(place.runs()[FIRST].info.run_id)
    mlflow.set_tag(place.runs()[SECOND].info.run_id, "verdict", "reproduced")
    assert place.sync()[:2] == [f"made      {FIRST}", f"changed   {SECOND}: tags verdict"]
    assert everything(place) == before
    mlflow.delete_experiment(place.runs()[FIRST].info.experiment_id)
    place.sync()
    assert everything(place) == before


def test_a_record_that_says_other_things_than_the_files_is_written_again(place: Place) -> None:
    before, mlflow = everything(place), place.client()
    first, second = (place.runs()[name].info for name in (FIRST, SECOND))
    mlflow.log_metric(first.run_id, "train_loss", 0.001, step=2)
    step, value = before[SECOND]["metrics"]["train_loss"][0]
    mlflow.log_metric(second.run_id, "train_loss", value, step=step)  # as it is, but twice
    assert place.sync()[:2] == [f"made      {FIRST}", f"made      {SECOND}"]
    assert everything(place) == before, "with the images per second that only the deleted record had"
    gone = mlflow.search_runs([first.experiment_id], "", ViewType.DELETED_ONLY)
    assert {run.info.run_id for run in gone} == {first.run_id, second.run_id}
    assert place.sync()[:2] == [f"as it was {FIRST}", f"as it was {SECOND}"]


def test_a_resumed_training_doubles_no_step_and_what_it_missed_is_added(place: Place) -> None:
    """MLflow sees the second epoch alone, twice, as after a kill and a server's outage."""
    mlflow = place.client()
    mlflow.set_tag(place.runs()[FIRST].info.run_id, "fingerprint", "of older code")
    record = json.loads((place.root / "models" / FIRST / "run.json").read_text())
    rows = list(csv.DictReader((place.root / "models" / FIRST / "history.csv").open()))
    last = EpochRecord(2, *(float(rows[1][k]) for k in ("learning_rate", "train_loss", "train_error")))
    for rate in (321.0, 322.0):
        with mirrored(FIRST, record, PAPER) as mirror:
            mirror.epoch(last, rate)
    first = place.runs()[FIRST].info.run_id
    assert [m.step for m in mlflow.get_metric_history(first, "train_loss")] == [2]
    log_runs(PAPER, load(), [FIRST])
    assert [m.step for m in mlflow.get_metric_history(first, "train_loss")] == [2, 1]
    assert [(m.step, m.value) for m in mlflow.get_metric_history(first, "images_per_second")] == [(2, 321.0)]
    assert place.sync()[:2] == [f"as it was {FIRST}", f"as it was {SECOND}"]


@pytest.mark.parametrize("trouble", ["a file is gone", "the server is down", "the database broke"])
def test_trainings_that_mlflow_does_not_take_are_published_all_the_same(
    place: Place, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], trouble: str
) -> None:
    if trouble == "a file is gone":
        (place.root / "models" / SECOND / "history.csv").unlink()
    elif trouble == "the database broke":
        (place.root / "tracking" / "mlflow.db").write_text("not a database")
    else:
        monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
        monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
    log_runs(PAPER, load(), [FIRST, SECOND])
    said = capsys.readouterr().err
    assert said.count("MLflow is not recording 2 published runs (") == 1
    assert "wrn-pipe track sync records it later" in said


def test_a_training_that_failed_or_was_stopped_says_so(place: Place) -> None:
    record = json.loads((place.root / "models" / FIRST / "run.json").read_text())
    for error, status in ((ValueError, "FAILED"), (KeyboardInterrupt, "KILLED")):
        with pytest.raises(error), mirrored(FIRST, record, PAPER):
            raise error
        assert place.runs()[FIRST].info.status == status


def test_a_run_without_an_evaluation_or_with_other_weights_says_so(place: Place) -> None:
    shutil.rmtree(place.root / "evaluations" / FIRST)
    weights = [place.root / "models" / name / "model.safetensors" for name in (FIRST, SECOND)]
    shutil.copyfile(weights[0], weights[1])
    place.sync()
    shown = everything(place)
    assert shown[FIRST]["tags"]["verdict"] == "not evaluated"
    assert shown[SECOND]["tags"]["verdict"] == "not comparable"
    assert shown[SECOND]["tags"]["dvc_lock"] == "other weights"
    assert shown[SECOND]["tags"]["weights_sha256"] == shown[FIRST]["tags"]["weights_sha256"]
    assert "test_top1_error" not in shown[FIRST]["metrics"]


def test_the_commit_is_said_only_of_code_that_makes_these_files(place: Place) -> None:
    plan = load()
    assert finished(PAPER, plan, [FIRST])[FIRST].origin["commit"] == place.runs()[FIRST].data.tags["commit"]
    loop = place.root / "pipeline" / "training" / "loop.py"
    loop.write_text(loop.read_text() + "\n# edited\n")
    assert finished(PAPER, plan, [FIRST])[FIRST].origin["commit"] == "unknown"


@pytest.mark.parametrize(
    ("name", "change"),
    [
        ("models/{}/run.json", "cut"),
        ("models/{}/history.csv", "gone"),
        ("evaluations/{}/metrics.json", "cut"),
        ("data/beton/cifar10-rgb/card.json", "{}"),
    ],
)
def test_a_broken_file_is_an_error_with_a_remedy(place: Place, name: str, change: str) -> None:
    path = place.root / name.format(FIRST)
    if change == "cut":
        path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    elif change == "gone":
        path.unlink()
    else:
        path.write_text(change)
    with pytest.raises(UserError) as error:
        place.sync()
    assert FIRST in error.value.what
    assert f"wrn-pipe repro {FIRST}" in error.value.remedy or f"evaluate@{FIRST}" in error.value.remedy


@pytest.mark.parametrize("damage", ["broken", "no folder"])
def test_a_database_that_fails_is_an_error_with_a_remedy(place: Place, damage: str) -> None:
    tracking = place.root / "tracking"
    if damage == "broken":
        (tracking / "mlflow.db").write_text("not a database")
    else:
        tracking.rename(place.root / "kept")
        tracking.write_text("a file")
    with pytest.raises(UserError) as error:
        place.sync()
    assert error.value.what.startswith("MLflow's tracking/mlflow.db fails (")
    assert error.value.remedy == (
        "make tracking/ writable, with room on its disk; a database that is broken: move tracking/mlflow.db away, "
        "then: wrn-pipe track sync"
    )


@pytest.mark.parametrize(
    "address",
    [
        "nonsense",
        "user:sesame@host/db",
        "postgresql://u:sesame@host/db",
        "sqlite://u:sesame@host/x.db",
        "file:///tmp/sesame",
        "https://",
        "http://user:sesame@host:5000",
        "http://127.0.0.1:1/?token=sesame",
        "http://127.0.0.1:1/#sesame",
        "http://user:a/b@sesame:5000",
    ],
)
def test_another_address_is_an_error_that_does_not_repeat_it(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], address: str
) -> None:
    monkeypatch.chdir(Path(__file__).parents[2])
    monkeypatch.setenv("MLFLOW_TRACKING_URI", address)
    monkeypatch.setattr("sys.argv", ["wrn-pipe", "track", "sync"])
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == 2
    shown = capsys.readouterr()
    said, fix = shown.err.splitlines()
    assert "MLFLOW_TRACKING_URI is neither" in said
    assert "MLFLOW_TRACKING_PASSWORD" in fix
    assert "sesame" not in shown.out + shown.err


def test_servers_and_databases_keep_their_address(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    for address in (f"sqlite:///{tmp_path}/m@y.db", "https://host.example:8080/base", "http://127.0.0.1:5000"):
        monkeypatch.setenv("MLFLOW_TRACKING_URI", address)
        assert uri() == store_name() == address
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "")
    local = uri()
    monkeypatch.setenv("MLFLOW_TRACKING_URI", local)  # as MLflow does, before the folder is made
    assert (uri(), store_name()) == (local, "tracking/mlflow.db")
