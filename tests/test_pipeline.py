"""The whole road by the real commands: dvc, wrn-pipe, an HTTP server, MLflow; on a few hundred real images."""

import csv
import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import chdir, contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
from project import AUTHOR, RUN, Project, clone, made, make_project, told, wait_for
from typer.testing import CliRunner

from pipeline.artifacts import read_predictions
from pipeline.cli.main import app
from pipeline.data.readers import Splits

pytestmark = pytest.mark.slow
RESULTS = ("manifest.json", "report.html", "runs.csv", "table-4.csv", "table-4.md")


@pytest.fixture(scope="module")
def done(tiny_entry: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> Project:
    """A project after `wrn-pipe repro`."""
    project = make_project(tmp_path_factory.mktemp("done"), tiny_entry)
    told(project.cli("repro", OMP_NUM_THREADS="1"))
    project.commit("results")
    return project


@contextmanager
def restored(*paths: Path) -> Iterator[None]:
    """Put back what a test edits."""
    before = {path: path.read_bytes() for path in paths}
    try:
        yield
    finally:
        for path, content in before.items():
            path.write_bytes(content)


def here(project: Project, *words: str) -> str:
    """What a command prints, run in this process: importing what it needs would take most of its time."""
    with chdir(project.root):
        ran = CliRunner().invoke(app, words)
    assert ran.exit_code == 0, ran.output
    return ran.stdout


def status(project: Project) -> Any:
    return json.loads(here(project, "status", "--json"))


def test_it_writes_what_the_design_says(done: Project, tiny_images: Splits) -> None:
    from mlflow import MlflowClient

    files = set(made(done))
    assert {f"models/{RUN}/{name}" for name in ("model.safetensors", "history.csv", "run.json")} <= files
    assert {f"evaluations/{RUN}/{name}" for name in ("predictions.parquet", "metrics.json")} <= files
    assert {f"results/{name}" for name in RESULTS} <= files
    rows = list(csv.DictReader((done.root / f"models/{RUN}/history.csv").open()))
    assert [row["epoch"] for row in rows] == ["1", "2"]
    assert not list((done.root / "scratch").glob("*/*.safetensors"))
    labels, predicted, _ = read_predictions(done.root / f"evaluations/{RUN}/predictions.parquet")
    assert np.array_equal(labels, tiny_images["test"][1])
    values = json.loads((done.root / f"evaluations/{RUN}/metrics.json").read_text())
    assert (values["n"], values["errors"]) == (104, int((labels != predicted).sum()))
    assert values["top1_error"] == pytest.approx(100 * values["errors"] / 104, abs=1e-6)
    client = MlflowClient(f"sqlite:///{done.root / 'tracking' / 'mlflow.db'}")
    where = client.get_experiment_by_name("wide-residual-networks").experiment_id
    fingerprint = json.loads((done.root / f"models/{RUN}/run.json").read_text())["fingerprint"]
    (run,) = client.search_runs([where], f"tags.fingerprint = '{fingerprint}'")
    assert (run.info.run_name, run.info.status) == (RUN, "FINISHED")
    assert run.data.tags["commit"] == told(done.run("git", "rev-list", "--max-parents=0", "HEAD")).strip()
    assert run.data.metrics["test_top1_error"] == values["top1_error"] == float(rows[-1]["test_error"])


@pytest.mark.soak
def test_status_and_dry_say_what_dvc_then_does(done: Project) -> None:
    found = status(done)
    assert (found["asked_dvc"], found["other_stages"], found["running"]) == (True, {}, {})
    (run,), (table,) = found["runs"], found["tables"]
    error = json.loads((done.root / f"evaluations/{RUN}/metrics.json").read_text())["top1_error"]
    assert (run["state"], run["error"], run["next"]) == ("done", error, None)
    assert (table["table"], table["state"]) == ("4", "done")
    assert "nothing would run" in here(done, "repro", "--dry").lower()
    params, code = done.root / "params.yaml", done.root / "stages" / "evaluate.py"
    with restored(params, code):
        before, written = params.read_text(), code.read_text()
        done.set_brief(epochs=400)
        found = status(done)
        assert found["runs"][0]["state"] == "stale"
        assert found["runs"][0]["next"] == f"wrn-pipe repro {RUN}"
        assert "params.yaml: protocols.brief edited" in found["runs"][0]["why"]
        assert found["tables"][0]["state"] == "stale"
        steps = json.loads(here(done, "repro", "--dry", "--json"))
        after = {step["stage"]: step["only_if"] for step in steps}
        assert after == {
            f"train@{RUN}": None,
            f"evaluate@{RUN}": f"train@{RUN}",
            "summarize": f"evaluate@{RUN}",
            **dict.fromkeys(("tabulate@4", "manifest", "report")),  # the protocols, their own parameters, were edited
        }
        assert steps[0]["cost"]["cpu_hours"] > 0
        params.write_text(before)
        code.write_text(written.replace("    plan = load()", '    raise RuntimeError("it broke")', 1))
        ran = done.cli("repro")
        assert ran.returncode == 1
        assert "Go on with: wrn-pipe repro. What is done stays done" in ran.stderr
        (run,) = status(done)["runs"]
        assert (run["state"], run["stage"]) == ("failed", f"evaluate@{RUN}")
        assert run["why"] == ["RuntimeError: it broke"]
        plain = here(done, "status")
        assert f"evaluate@{RUN} failed: RuntimeError: it broke" in plain
        assert f"Next: wrn-pipe repro {RUN}" in plain
        code.write_text(written)
        told(done.cli("repro"))
        assert status(done)["runs"][0]["state"] == "done"
        metrics = done.root / "evaluations" / RUN / "metrics.json"
        with restored(metrics):
            metrics.unlink()
            assert f"Next: wrn-pipe repro {RUN};" in here(done, "status")
            assert status(done)["runs"][0]["stage"] == f"evaluate@{RUN}", "the training is not said to start"


def test_a_fresh_clone_has_every_number_and_reproduces_byte_for_byte_by_jobs(done: Project, tmp_path: Path) -> None:
    again = clone(done, tmp_path / "again")
    assert set(made(again)) == {
        *(f"results/{name}" for name in RESULTS),
        *(f"models/{RUN}/{name}" for name in ("history.csv", "run.json")),
        *(f"evaluations/{RUN}/{name}" for name in ("digests.json", "metrics.json", "run.json")),
    }
    compared = [here(each, "compare", "--paper-table", "4", "--format", "json") for each in (done, again)]
    assert compared[0] == compared[1]
    (again.root / "data" / "raw" / "cifar10-tiny").mkdir(parents=True)  # as after a dvc pull that found nothing
    found, complete = status(again), status(done)
    (run,), (table,) = found["runs"], found["tables"]
    assert (run["state"], run["error"]) == ("done", complete["runs"][0]["error"])
    assert run["why"][0] == f"its files are not all here: wrn-pipe repro {RUN}"
    assert table == complete["tables"][0]
    assert set(found["other_stages"]) == {"download@cifar10-tiny", "convert@cifar10-tiny-rgb"}
    assert "data/raw/cifar10-tiny is empty" in found["other_stages"]["convert@cifar10-tiny-rgb"]
    # Sums in another number of threads round otherwise; what MLflow shows of a run is another test's matter.
    ran = again.cli("repro", "--jobs", "1", OMP_NUM_THREADS="1", MLFLOW_TRACKING_URI="none://")
    for stage in ("download", "convert", "train", "evaluate"):
        assert (f"Running stage '{stage}@" in told(ran)) == (stage in ("download", "convert"))
    assert f"{RUN}: runs as process" in ran.stderr
    assert not list((again.root / "scratch").glob("*/*.safetensors"))
    assert "other results" not in ran.stdout
    assert again.lock() == done.lock()
    assert made(again) == made(done)
    assert again.run("git", "status", "--porcelain").stdout == ""

    # Now as if the commit had been made on a machine with 64 threads, whose sums round in another order.
    lock, runs = again.root / "dvc.lock", again.root / "results" / "runs.csv"
    before = lock.read_text(), runs.read_text()
    weights = re.search(rf"train@{RUN}:.*?model\.safetensors.*?(md5: \w+)\n", before[0], re.S)
    assert weights
    lock.write_text(before[0].replace(weights[1], weights[1][:-4] + "0000"))
    (row,) = csv.DictReader(runs.open())
    runs.write_text(before[1].replace(f",{row['threads']},{row['loader']},", f",64,{row['loader']},"))
    again.commit("from another machine")
    lock.write_text(before[0])
    runs.write_text(before[1])
    shown = told(again.cli("repro"))
    assert "Running stage" not in shown
    assert "other results than in the checked-out commit" in shown
    assert f"{RUN}: top-1 error" in shown
    assert f"(threads 64 -> {row['threads']})" in shown
    assert "Changed therefore, among files that git tracks: dvc.lock, results/runs.csv." in shown
    assert not list(again.root.glob("*/*/.gitignore")), "the one at the root is enough"


def test_while_a_stage_runs_readers_answer_and_a_repro_waits_for_its_end(done: Project, tmp_path: Path) -> None:
    """A process that DVC has noted as the one that trains stands for it. It is killed, and stays a zombie of ours."""
    trains = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
    info = {"pid": trains.pid, "cmd": "dvc repro"}
    note, log = done.root / ".dvc" / "tmp" / "rwlock", tmp_path / "log"
    with restored(note):
        writes = {str(done.root / "models" / RUN / "model.safetensors"): info}
        note.write_text(json.dumps({"write": writes, "read": {}}))
        try:
            asked = (f"show {RUN}", "explain --paper-table 4 --row WRN-40-1", "verify", "data", "status")
            with chdir(done.root):
                answers = {words: CliRunner().invoke(app, words.split()) for words in asked}
            ends = {words: (ran.exit_code, ran.stderr) for words, ran in answers.items()}
            assert ends == dict.fromkeys(answers, (0, ""))
            shown = " ".join(answers[f"show {RUN}"].stdout.split())
            assert f"train@{RUN}: train@{RUN} runs (process {trains.pid})" in shown
            assert f"evaluate@{RUN}: train@{RUN} runs" in shown
            assert f"train@{RUN} runs (process {trains.pid}): what it writes" in answers["verify"].stdout
            waits = done.start(log, "repro")
            said = f"another repro runs train@{RUN} here (process {trains.pid}): waiting for its end"
            wait_for(said, log, waits)
        finally:
            trains.kill()
        assert waits.wait() == 0, log.read_text()
        trains.wait()
        assert log.read_text().count(said) == 1
        assert "Running stage" not in log.read_text()


@pytest.mark.soak
def test_a_stopped_repro_saves_the_training_and_continues_it(done: Project, tmp_path: Path) -> None:
    """By SIGTERM to wrn-pipe alone, as a scheduler sends it, then by a terminal's SIGINT to the whole group."""
    project = clone(done, tmp_path / "stopped")
    told(project.run("dvc", "cache", "dir", "--local", str(done.root / ".dvc" / "cache")))
    project.set_brief(epochs=400)
    log = tmp_path / "log"

    def stopped_at(
        line: str, kill: Callable[[int, int], None], signum: int, under_way: Callable[[], bool] = lambda: True
    ) -> int:
        running = project.start(log, "repro")
        while not (line in log.read_text() and under_way()) and running.poll() is None:
            time.sleep(0.1)
        if "epoch 2" in line:
            found = status(project)
            assert found["asked_dvc"], found["why_not"]
            assert found["running"][f"train@{RUN}"]
            (run,) = found["runs"]
            beat = run["heartbeat"]
            assert (run["state"], run["stage"]) == ("running", f"train@{RUN}")
            assert (beat["epochs"], beat["epoch"] >= 2) == (400, True)
            assert min(beat["loss"], beat["images_per_s"], beat["seconds_left"]) > 0
            assert run["owner"]["pid"] in [child.pid for child in psutil.Process(running.pid).children(True)]
        kill(running.pid, signum)
        return running.wait(60)

    assert stopped_at("epoch 2/400", os.kill, signal.SIGTERM) == 143, log.read_text()
    assert f"continue with: wrn-pipe repro train@{RUN}" in log.read_text()
    assert not (project.root / "models" / RUN / "run.json").exists()
    newest = max(project.root.glob("scratch/*/epoch-*.safetensors"))
    saved = newest.parent
    assert f"saved as scratch/{saved.name}/{newest.name}" in log.read_text()
    (run,) = status(project)["runs"]
    assert (run["state"], run["next"]) == ("stopped", f"wrn-pipe repro {RUN}")
    assert run["why"][0].startswith("SIGTERM: stopped in epoch ")
    assert "going on in epoch" in here(project, "repro", "--dry")
    project.set_brief(epochs=401)
    assert status(project)["runs"][0]["state"] == "stale", "another training than the one that was stopped"
    project.set_brief(epochs=400)
    heartbeat = saved / "heartbeat.json"
    before = heartbeat.stat().st_mtime_ns
    assert stopped_at("resuming from", os.killpg, signal.SIGINT, lambda: heartbeat.stat().st_mtime_ns > before) == 130
    assert f"resuming from scratch/{saved.name}/{newest.name}" in log.read_text()
    assert max(saved.glob("epoch-*.safetensors")) > newest
    here(project, "repro", "--fresh", "--dry", f"train@{RUN}")
    assert saved.exists(), "a dry run changes nothing"


@pytest.mark.soak
def test_dvcs_own_commands_tell_an_experiment_from_the_plan(done: Project, tmp_path: Path) -> None:
    project = clone(done, tmp_path / "tried")
    told(project.run("dvc", "cache", "dir", "--local", str(done.root / ".dvc" / "cache")))
    told(project.run("dvc", "checkout"))

    def said(*words: str) -> Any:
        shown = told(project.run("dvc", *words, **AUTHOR))
        return json.loads(shown) if "--json" in words else shown

    metrics = f"evaluations/{RUN}/metrics.json"
    before = json.loads((project.root / metrics).read_text())
    ran = said("exp", "run", "--name", "slower", "-S", "protocols.brief.learning_rate=0.001")
    assert f"Running stage 'train@{RUN}'" in ran
    assert "Running stage 'download" not in ran
    after = json.loads((project.root / metrics).read_text())
    assert after["top1_error"] != before["top1_error"]

    difference = said("metrics", "diff", "--json")[metrics]["top1_error"]
    assert (difference["old"], difference["new"]) == (before["top1_error"], after["top1_error"])
    assert said("params", "diff", "--json")["params.yaml"] == {
        "protocols.brief.learning_rate": {"old": 0.1, "new": 0.001, "diff": -0.099}
    }
    assert "slower" in said("exp", "show", "--only-changed")
