"""wrn-pipe track sync: MLflow's records follow the files, whatever happened to either, and tell no secret."""

import csv
import hashlib
import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from made_up_runs import changed, five, plan_text, result
from mlflow.entities import ViewType
from project import ROOT, Project, WrnPipe, refused
from tracking.conftest import FIRST, SECOND, Place, copy
from typer.testing import CliRunner

from pipeline.artifacts import EpochRecord
from pipeline.cli.main import app
from pipeline.comparison.cells import Comparison
from pipeline.comparison.results import Result
from pipeline.errors import UserError
from pipeline.params import PARAMS
from pipeline.publication.wide_resnet import PAPER
from pipeline.runner.params_file import load, parse_plan
from pipeline.tracking.mlflow_logger import NO_CLAIM, claims_for, mirrored, table_tag, uri
from pipeline.tracking.mlflow_logger import name as store_name
from pipeline.tracking.sync import finished, judged, log_runs


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


def test_a_wiped_database_is_rebuilt(trained: Project, place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    before = everything(place)
    del before[FIRST]["metrics"]["images_per_second"]  # which no file says
    # In a folder of its own: MLflow holds on to a database that this process has opened.
    wiped = copy(trained.root, place.root.parent / "wiped", monkeypatch)
    shutil.rmtree(wiped.root / "tracking")
    assert wiped.sync()[:2] == [f"made      {FIRST}", f"made      {SECOND}"]
    assert everything(wiped) == before


def test_what_was_deleted_or_edited_by_hand_comes_back(place: Place) -> None:
    before, mlflow = everything(place), place.client()
    mlflow.delete_run(place.runs()[FIRST].info.run_id)
    mlflow.set_tag(place.runs()[SECOND].info.run_id, "verdict", "reproduced")
    said = CliRunner().invoke(app, ["track", "sync", "--json"], catch_exceptions=False)
    assert json.loads(said.stdout) == {
        "store": "tracking/mlflow.db",
        "runs": [
            {"run": FIRST, "done": "made", "changes": []},
            {"run": SECOND, "done": "changed", "changes": ["tags verdict"]},
        ],
        "not_trained": 0,
    }
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


def test_what_mlflow_does_not_take_is_published_all_the_same_and_a_sync_tells_the_remedy(
    place: Place, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def log() -> None:
        log_runs(PAPER, load(), [FIRST, SECOND])
        said = capsys.readouterr().err
        assert said.count("MLflow is not recording 2 published runs (") == 1
        assert "wrn-pipe track sync records it later" in said

    history, tracking = place.root / "models" / SECOND / "history.csv", place.root / "tracking"
    history.rename("history")
    log()
    Path("history").rename(history)
    with monkeypatch.context() as patch:
        patch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
        patch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
        log()
    tracking.rename("kept")
    tracking.write_text("a file")
    for damage in ("no folder", "no database"):
        if damage == "no database":
            tracking.unlink()
            tracking.mkdir()
            (tracking / "mlflow.db").write_text("not a database")
        log()
        with pytest.raises(UserError) as error:
            place.sync()
        assert error.value.what.startswith("MLflow's tracking/mlflow.db fails (")
        assert "writable" in error.value.remedy
        assert "move tracking/mlflow.db away, then: wrn-pipe track sync" in error.value.remedy


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


def test_a_broken_file_is_an_error_with_a_remedy(place: Place) -> None:
    for name in ("models/{}/run.json", "models/{}/history.csv", "evaluations/{}/metrics.json", "data/{}/card.json"):
        path = place.root / name.format("beton/cifar10-rgb" if name.startswith("data") else FIRST)
        content = path.read_bytes()
        path.write_text("{}" if name.startswith("data") else content.decode()[: len(content) // 2])
        with pytest.raises(UserError) as error:
            place.sync()
        assert FIRST in error.value.what
        assert f"wrn-pipe repro {FIRST}" in error.value.remedy or f"evaluate@{FIRST}" in error.value.remedy
        path.write_bytes(content)


SECRETS = (
    "nonsense user:sesame@host/db postgresql://u:sesame@host/db sqlite://u:sesame@host/x.db file:///tmp/sesame "
    "https:// http://user:sesame@host:5000 http://h:1/?token=sesame http://h:1/#sesame http://user:a/b@sesame:5000"
)


@pytest.mark.parametrize("address", SECRETS.split())
def test_another_address_is_an_error_that_does_not_repeat_it(
    monkeypatch: pytest.MonkeyPatch, wrn_pipe: WrnPipe, address: str
) -> None:
    monkeypatch.chdir(ROOT)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", address)
    shown = wrn_pipe("track", "sync")
    said, fix = refused(shown).splitlines()
    assert "MLFLOW_TRACKING_URI is neither" in said
    assert "MLFLOW_TRACKING_PASSWORD" in fix
    assert "sesame" not in shown.stdout + shown.stderr


def test_servers_and_databases_keep_their_address(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    for address in (f"sqlite:///{tmp_path}/m@y.db", "https://host.example:8080/base", "http://127.0.0.1:5000"):
        monkeypatch.setenv("MLFLOW_TRACKING_URI", address)
        assert uri() == store_name() == address
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "")
    local = uri()
    monkeypatch.setenv("MLFLOW_TRACKING_URI", local)  # as MLflow does, before the folder is made
    assert (uri(), store_name()) == (local, "tracking/mlflow.db")


NEAR = [540, 548, 541, 545, 543]  # WRN-40-2: Table 3 prints 5.43, Table 4 5.33


def answered(run: str, results: Sequence[Result]) -> tuple[str, str]:
    """Tag and note of one of these runs."""
    one = next(each for each in results if each.run == run)
    claims = claims_for(one.record.network, one.record.dataset, PAPER)
    return judged(run, claims, Comparison(PAPER, parse_plan(plan_text(results), PARAMS, PAPER), results))


@pytest.mark.parametrize(
    ("network", "dataset", "tables"),
    [
        *(("WRN-40-2-B(3,3)", "cifar10", "3 4"), ("WRN-40-2", "cifar10", "3 4"), ("WRN-40-2", "cifar100", "4")),
        ("WRN-50-2-bottleneck", "imagenet", "8 9"),  # each once, though by top-1 and top-5 errors
    ],
)
def test_a_training_answers_the_tables_of_its_network(network: str, dataset: str, tables: str) -> None:
    assert table_tag(claims_for(network, dataset, PAPER)) == tables


def test_a_run_that_counts_has_the_verdict_of_its_claims() -> None:
    runs = five(NEAR, network="WRN-40-2-B(3)")
    tag, note = answered(runs[0].run, runs)
    assert tag == "better"
    assert "**better" in note
    assert "Table 3, WRN-40-2-B(3) on CIFAR-10" in note
    assert "ours 5.43 (n=5)" in note
    assert "left out" not in note
    assert "- device: NVIDIA H200 instead of NVIDIA Titan X (rounding only)" in note


def test_a_run_that_is_left_out_or_has_no_claim_says_so() -> None:
    runs = five(NEAR, network="WRN-40-2")
    again = result(900, network="WRN-40-2", seed=1, run="again", protocol=changed("paper-zca", precision="bf16"))
    longer = result(900, network="WRN-40-2", seed=9, run="longer", protocol=changed("paper-zca", epochs=300))
    other = result(900, network="WRN-10-1", run="other")
    results = [again, longer, other, *runs]
    for run, reason in (("again", "its seed is counted already"), ("longer", "not comparable")):
        tag, note = answered(run, results)
        assert tag == f"left out ({reason})"
        assert f"This run is left out: {reason}." in note
        assert "Differs from" not in note
    tag, note = answered("other", results)
    assert tag == table_tag([]) == NO_CLAIM
    assert "prints no number" in note
