"""The whole road by the real commands: dvc, wrn-pipe, an HTTP server, MLflow; on a few hundred real images."""

import csv
import hashlib
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import page_checks
import psutil
import pytest
from project import BIN, RUN, Project, make_project

from pipeline.data.readers import Splits
from pipeline.publication.claims import claims_of
from pipeline.tasks import predictions

pytestmark = pytest.mark.slow
RESULTS = ("manifest.json", "report.html", "runs.csv", "table-4.csv", "table-4.md")


class _Quiet(SimpleHTTPRequestHandler):
    def log_message(self, *_: Any) -> None:
        """Nothing on stderr."""


@pytest.fixture(scope="module")
def url(tiny_archive: Path) -> Iterator[str]:
    with ThreadingHTTPServer(("127.0.0.1", 0), partial(_Quiet, directory=tiny_archive.parent)) as server:
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}/{tiny_archive.name}"
        server.shutdown()


@pytest.fixture(scope="module")
def entry(url: str, tiny_dataset_entry: Callable[[str], dict[str, Any]]) -> dict[str, Any]:
    return tiny_dataset_entry(url)


@pytest.fixture(scope="module")
def done(entry: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> Project:
    """A project after `wrn-pipe repro`."""
    project = make_project(tmp_path_factory.mktemp("done"), entry)
    ran = project.cli("repro")
    assert ran.returncode == 0, ran.stdout + ran.stderr
    project.commit("results")
    return project


def digests(project: Project) -> dict[str, str]:
    kept = [p for top in ("data", "models", "evaluations", "results") for p in (project.root / top).rglob("*")]
    files = [p for p in kept if p.is_file() and p.name != ".gitignore"]
    return {str(p.relative_to(project.root)): hashlib.sha256(p.read_bytes()).hexdigest() for p in files}


def stale(project: Project) -> set[str]:
    ran = project.run("dvc", "status", "--json")
    assert ran.returncode == 0, ran.stderr
    return set(json.loads(ran.stdout))


def two_lines(ran: subprocess.CompletedProcess[str]) -> list[str]:
    """The error of a command that failed by the user's mistake: what and where, then how to mend it."""
    assert ran.returncode == 2, ran.stdout + ran.stderr
    assert "Traceback" not in ran.stderr
    lines = ran.stderr.splitlines()
    start = next(i for i, line in enumerate(lines) if line.startswith("error: "))
    assert lines[start + 1].startswith("  fix: ")
    return lines[start : start + 2]


def test_it_writes_what_the_design_says(done: Project, tiny_images: Splits) -> None:
    files = set(digests(done))
    assert {f"models/{RUN}/{name}" for name in ("model.safetensors", "history.csv", "run.json")} <= files
    assert {f"evaluations/{RUN}/{name}" for name in ("predictions.parquet", "metrics.json")} <= files
    assert {f"results/{name}" for name in RESULTS} <= files
    for split, (images, labels) in tiny_images.items():
        folder = done.root / "data/raw/cifar10-tiny"
        assert np.array_equal(np.load(folder / f"{split}_images.npy"), images)
        assert np.array_equal(np.load(folder / f"{split}_labels.npy"), labels)
    rows = list(csv.DictReader((done.root / f"models/{RUN}/history.csv").open()))
    assert [row["epoch"] for row in rows] == ["1", "2"]
    assert not list((done.root / "scratch").glob("*/*.safetensors"))


def test_the_metrics_are_those_of_the_predictions(done: Project, tiny_images: Splits) -> None:
    folder = done.root / "evaluations" / RUN
    labels, predicted, probabilities = predictions.read(folder / "predictions.parquet")
    assert np.array_equal(labels, tiny_images["test"][1])
    assert np.allclose(probabilities.sum(1), 1)
    values = json.loads((folder / "metrics.json").read_text())
    assert values["n"] == 104
    assert values["errors"] == int((labels != predicted).sum())
    assert values["top1_error"] == pytest.approx(100 * values["errors"] / 104, abs=1e-6)
    rate = values["errors"] / 104
    assert values["standard_error"] == pytest.approx(100 * (rate * (1 - rate) / 104) ** 0.5, abs=1e-6)
    nll = -np.log(probabilities[np.arange(104), labels]).mean()
    assert values["negative_log_likelihood"] == pytest.approx(nll, abs=1e-6)


def test_nothing_runs_twice(done: Project) -> None:
    before = digests(done), done.lock()
    ran = done.cli("repro")
    assert ran.returncode == 0
    assert "Running stage" not in ran.stdout
    assert "up to date" in ran.stdout
    assert (digests(done), done.lock()) == before
    assert done.run("git", "status", "--porcelain").stdout == ""


def clone(project: Project, to: Path) -> Project:
    """A fresh clone: what is committed, and an empty DVC cache."""
    assert project.run("git", "clone", "-q", str(project.root), str(to)).returncode == 0
    return Project(to)


def status(project: Project) -> dict[str, Any]:
    ran = project.cli("status", "--json")
    assert ran.returncode == 0, ran.stderr
    found: dict[str, Any] = json.loads(ran.stdout)
    return found


@pytest.mark.soak
def test_status_and_dry_say_what_dvc_then_does(done: Project) -> None:
    found = status(done)
    assert (found["asked_dvc"], found["other_stages"], found["running"]) == (True, {}, {})
    (run,), (table,) = found["runs"], found["tables"]
    error = json.loads((done.root / f"evaluations/{RUN}/metrics.json").read_text())["top1_error"]
    assert (run["state"], run["error"], run["next"]) == ("done", error, None)
    assert (table["table"], table["state"]) == ("4", "done")
    assert "nothing would run" in done.cli("repro", "--dry").stdout.lower()
    params, code = done.root / "params.yaml", done.root / "stages" / "evaluate.py"
    before, written = params.read_text(), code.read_text()
    try:
        done.edit(lambda params: params["protocols"]["brief"].update(epochs=400))
        found = status(done)
        assert found["runs"][0]["state"] == "stale"
        assert found["runs"][0]["next"] == f"wrn-pipe repro {RUN}"
        assert "params.yaml: protocols.brief edited" in found["runs"][0]["why"]
        assert found["tables"][0]["state"] == "stale"
        steps = json.loads(done.cli("repro", "--dry", "--json").stdout)
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
        plain = done.cli("status").stdout
        assert f"evaluate@{RUN} failed: RuntimeError: it broke" in plain
        assert f"Next: wrn-pipe repro {RUN}" in plain
        code.write_text(written)
        assert done.cli("repro").returncode == 0
        assert status(done)["runs"][0]["state"] == "done"
    finally:
        params.write_text(before)
        code.write_text(written)


def test_a_training_that_only_lacks_its_evaluation_is_not_said_to_start(done: Project) -> None:
    metrics = done.root / "evaluations" / RUN / "metrics.json"
    metrics.rename(aside := done.root / "metrics.json")
    try:
        assert f"Next: wrn-pipe repro {RUN} goes on with {RUN}" in done.cli("status").stdout
        assert status(done)["runs"][0]["stage"] == f"evaluate@{RUN}"
    finally:
        aside.rename(metrics)


def test_a_fresh_clone_has_every_number_and_reproduces_byte_for_byte(done: Project, tmp_path: Path) -> None:
    again = clone(done, tmp_path / "again")
    assert set(digests(again)) == {
        *(f"results/{name}" for name in RESULTS),
        *(f"models/{RUN}/{name}" for name in ("history.csv", "run.json")),
        *(f"evaluations/{RUN}/{name}" for name in ("digests.json", "metrics.json", "run.json")),
    }
    compared = [project.cli("compare", "--paper-table", "4", "--format", "json").stdout for project in (done, again)]
    assert compared[0] == compared[1]
    (again.root / "data" / "raw" / "cifar10-tiny").mkdir(parents=True)  # as after a dvc pull that found nothing
    found, complete = status(again), status(done)
    (run,), (table,) = found["runs"], found["tables"]
    assert (run["state"], run["error"]) == ("done", complete["runs"][0]["error"])
    assert run["why"][0] == f"its files are not all here: wrn-pipe repro {RUN}"
    assert table == complete["tables"][0]
    assert set(found["other_stages"]) == {"download@cifar10-tiny", "convert@cifar10-tiny-rgb"}
    assert "data/raw/cifar10-tiny is empty" in found["other_stages"]["convert@cifar10-tiny-rgb"]
    again.edit(lambda params: params["protocols"]["brief"].update(epochs=3))
    edited = status(again)
    assert (edited["runs"][0]["state"], edited["tables"][0]["state"]) == ("stale", "stale")
    assert again.run("git", "checkout", "-q", "params.yaml").returncode == 0
    ran = again.cli("repro")
    assert ran.returncode == 0, ran.stderr
    for stage in ("download", "convert", "train", "evaluate"):
        assert f"Running stage '{stage}@" in ran.stdout
    assert "other results" not in ran.stdout
    assert again.lock() == done.lock()
    assert digests(again) == digests(done)
    assert again.run("git", "status", "--porcelain").stdout == ""

    # Now as if the commit had been made on a machine with 64 threads, whose sums round in another order.
    lock, runs = again.root / "dvc.lock", again.root / "results" / "runs.csv"
    here = lock.read_text(), runs.read_text()
    weights = next(line for line in here[0].splitlines() if "md5: " in line and line in model_entry(here[0]))
    lock.write_text(here[0].replace(weights, weights[:-4] + "0000"))
    (row,) = csv.DictReader(runs.open())
    runs.write_text(here[1].replace(f",{row['threads']},{row['loader']},", f",64,{row['loader']},"))
    again.commit("from another machine")
    lock.write_text(here[0])
    runs.write_text(here[1])
    ran = again.cli("repro")
    assert ran.returncode == 0, ran.stderr
    assert "Running stage" not in ran.stdout
    assert "other results than in the checked-out commit" in ran.stdout
    assert f"{RUN}: top-1 error" in ran.stdout
    assert f"(threads 64 -> {row['threads']})" in ran.stdout
    assert "Changed therefore, among files that git tracks: dvc.lock, results/runs.csv." in ran.stdout
    assert not list(again.root.glob("*/*/.gitignore")), "the one at the root is enough"


def model_entry(lock: str) -> str:
    """The lines of dvc.lock about the weights that the training made."""
    start = lock.index("model.safetensors", lock.index(f"train@{RUN}:"))
    return lock[start : start + 200]


@pytest.mark.parametrize(
    ("file", "expected"),
    [
        ("pipeline/comparison/tables.py", {"summarize", "manifest", "tabulate@4", "report"}),
        ("pipeline/report/page.py", {"report"}),
        ("pipeline/report/report.css", {"report"}),
        ("pipeline/models/preact_resnet.py", {f"train@{RUN}", f"evaluate@{RUN}"}),
        ("pipeline/training/loop.py", {f"train@{RUN}", f"evaluate@{RUN}"}),
        ("pipeline/kernels/bn_relu.cpp", {f"train@{RUN}"}),
        ("pipeline/runner/heartbeat.py", set()),
        ("environment/requirements.lock", {f"train@{RUN}", f"evaluate@{RUN}", "report"}),
        ("pipeline/tracking/mlflow_logger.py", set()),
        ("pipeline/cli/main.py", set()),
    ],
)
def test_an_edit_makes_stale_what_depends_on_it_and_no_more(done: Project, file: str, expected: set[str]) -> None:
    path = done.root / file
    before = path.read_text()
    try:
        path.write_text(before + "\n# edited\n")
        assert stale(done) == expected
    finally:
        path.write_text(before)


def test_an_edited_protocol_makes_its_runs_stale(done: Project) -> None:
    path = done.root / "params.yaml"
    before = path.read_text()
    try:
        done.edit(lambda params: params["protocols"]["paper-meanstd"].update(epochs=201))
        assert stale(done) == {"manifest", "tabulate@4", "report"}
        done.edit(lambda params: params["protocols"]["brief"].update(epochs=3))
        assert stale(done) == {f"train@{RUN}", "manifest", "tabulate@4", "report"}
    finally:
        path.write_text(before)


def test_mlflow_has_the_run_by_its_fingerprint(done: Project) -> None:
    from mlflow import MlflowClient

    record = json.loads((done.root / f"models/{RUN}/run.json").read_text())
    client = MlflowClient(f"sqlite:///{done.root / 'tracking' / 'mlflow.db'}")
    experiment = client.get_experiment_by_name("wide-residual-networks")
    where = experiment.experiment_id
    (run,) = client.search_runs([where], f"tags.fingerprint = '{record['fingerprint']}'")
    assert run.info.status == "FINISHED"
    assert run.info.run_name == RUN
    assert run.data.tags["dvc_stage"] == f"train@{RUN}"
    assert run.data.tags["dirty"] == "false"
    head = done.run("git", "rev-list", "--max-parents=0", "HEAD").stdout.strip()
    assert run.data.tags["commit"] == head
    assert run.data.params["peak_learning_rate"] == "0.1"
    assert run.data.params["schedule.kind"] == "one-cycle"
    rows = list(csv.DictReader((done.root / f"models/{RUN}/history.csv").open()))
    logged = client.get_metric_history(run.info.run_id, "train_loss")
    assert [(m.step, m.value) for m in logged] == [(int(r["epoch"]), float(r["train_loss"])) for r in rows]
    looks = client.get_metric_history(run.info.run_id, "test_error")
    assert [(m.step, m.value) for m in looks] == [(int(r["epoch"]), float(r["test_error"])) for r in rows]
    metrics = json.loads((done.root / f"evaluations/{RUN}/metrics.json").read_text())
    assert looks[-1].value == metrics["top1_error"]
    assert run.data.metrics["test_top1_error"] == metrics["top1_error"]
    (dataset,) = run.inputs.dataset_inputs
    card = json.loads((done.root / "data/beton/cifar10-tiny-rgb/card.json").read_text())
    assert dataset.dataset.digest == card["splits"]["train"]["digest"][:32]
    weights = done.root / f"models/{RUN}/model.safetensors"
    assert run.data.tags["weights_sha256"] == hashlib.sha256(weights.read_bytes()).hexdigest()


def test_a_dead_tracking_server_stops_nothing_and_is_said_once(done: Project, tmp_path: Path) -> None:
    before = digests(done)
    ran = done.cli("stage", "train", RUN, MLFLOW_TRACKING_URI="http://127.0.0.1:9")
    assert ran.returncode == 0, ran.stderr
    assert ran.stderr.count("MLflow is not recording") == 1
    assert digests(done) == before


def test_while_a_stage_runs_readers_answer_and_a_repro_waits_for_its_end(done: Project, tmp_path: Path) -> None:
    """A process that DVC has noted as the one that trains stands for it. It is killed, and stays a zombie of ours."""
    trains = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
    info = {"pid": trains.pid, "cmd": "dvc repro"}
    note = done.root / ".dvc" / "tmp" / "rwlock"
    kept = note.read_text()
    note.write_text(json.dumps({"write": {str(done.root / "models" / RUN / "model.safetensors"): info}, "read": {}}))
    log = tmp_path / "log"
    try:
        told = {
            words: done.cli(*words.split())
            for words in (f"show {RUN}", "explain --paper-table 4 --row WRN-40-1", "verify", "data", "status")
        }
        assert {words: (ran.returncode, ran.stderr) for words, ran in told.items()} == dict.fromkeys(told, (0, ""))
        shown = " ".join(told[f"show {RUN}"].stdout.split())
        assert f"train@{RUN}: train@{RUN} runs (process {trains.pid})" in shown
        assert f"evaluate@{RUN}: train@{RUN} runs" in shown
        assert f"train@{RUN} runs (process {trains.pid}): what it writes" in told["verify"].stdout
        with log.open("w") as file:
            waits = subprocess.Popen(
                [sys.executable, "-c", "from pipeline.cli.main import main; main()", "repro"],
                cwd=done.root,
                env={**os.environ, "PATH": f"{BIN}{os.pathsep}{os.environ['PATH']}"},
                stdin=subprocess.DEVNULL,
                stdout=file,
                stderr=subprocess.STDOUT,
            )
        said = f"another repro runs train@{RUN} here (process {trains.pid}): waiting for its end"
        while said not in log.read_text():
            assert waits.poll() is None, log.read_text()
            time.sleep(0.1)
        trains.kill()
        assert waits.wait() == 0, log.read_text()
        assert log.read_text().count(said) == 1
        assert "Running stage" not in log.read_text()
    finally:
        trains.kill()
        trains.wait()
        note.write_text(kept)


@pytest.mark.soak
def test_a_stopped_repro_saves_the_training_and_continues_it(done: Project, tmp_path: Path) -> None:
    """By SIGTERM to wrn-pipe alone, as a scheduler sends it, then by a terminal's SIGINT to the whole group."""
    project = clone(done, tmp_path / "stopped")
    assert project.run("dvc", "cache", "dir", "--local", str(done.root / ".dvc" / "cache")).returncode == 0
    project.edit(lambda params: params["protocols"]["brief"].update(epochs=400))
    project.edit(lambda params: params["loading"].update(backend="numpy"))
    log = tmp_path / "log"

    def stopped_at(line: str, stop: Callable[[int], None], under_way: Callable[[], bool] = lambda: True) -> int:
        with log.open("w") as file:
            running = subprocess.Popen(
                [sys.executable, "-c", "from pipeline.cli.main import main; main()", "repro"],
                cwd=project.root,
                env={**os.environ, "PATH": f"{BIN}{os.pathsep}{os.environ['PATH']}"},
                stdout=file,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
            while not (line in log.read_text() and under_way()) and running.poll() is None:
                time.sleep(0.1)
            if "epoch 2" in line:
                found = status(project)
                assert found["asked_dvc"], found["why_not"]
                assert found["running"][f"train@{RUN}"]
                (run,) = found["runs"]
                assert (run["state"], run["stage"]) == ("running", f"train@{RUN}")
                assert run["pulse"]["epochs"] == 400
                assert run["pulse"]["epoch"] >= 2
                assert run["pulse"]["loss"] > 0
                assert run["pulse"]["images_per_s"] > 0
                assert run["pulse"]["seconds_left"] > 0
                assert run["holder"]["pid"] in [child.pid for child in psutil.Process(running.pid).children(True)]
            stop(running.pid)
            return running.wait(60)

    assert stopped_at("epoch 2/400", lambda pid: os.kill(pid, signal.SIGTERM)) == 143, log.read_text()
    assert f"continue with: wrn-pipe repro train@{RUN}" in log.read_text()
    assert not (project.root / "models" / RUN / "run.json").exists()
    (saved,) = (p for p in (project.root / "scratch").iterdir() if p.name not in ("downloads", "last-words"))
    newest = max(saved.glob("epoch-*.safetensors"))
    assert f"saved as scratch/{saved.name}/{newest.name}" in log.read_text()
    (run,) = status(project)["runs"]
    assert (run["state"], run["next"]) == ("stopped", f"wrn-pipe repro {RUN}")
    assert run["why"][0].startswith("SIGTERM: stopped in epoch ")
    assert "going on in epoch" in project.cli("repro", "--dry").stdout
    project.edit(lambda params: params["protocols"]["brief"].update(epochs=401))
    assert status(project)["runs"][0]["state"] == "stale", "another training than the one that was stopped"
    project.edit(lambda params: params["protocols"]["brief"].update(epochs=400))
    pulse = saved / "pulse.json"
    before = pulse.stat().st_mtime_ns

    def steps_are_made() -> bool:
        return pulse.stat().st_mtime_ns > before

    ended = stopped_at("resuming from", lambda pid: os.killpg(pid, signal.SIGINT), steps_are_made)
    assert ended == 130, log.read_text()
    assert f"resuming from scratch/{saved.name}/{newest.name}" in log.read_text()
    assert max(saved.glob("epoch-*.safetensors")) > newest
    forgotten = project.cli("repro", "--fresh", "--dry", f"train@{RUN}")
    assert forgotten.returncode == 0, forgotten.stderr
    assert saved.exists(), "a dry run changes nothing"


def test_a_mistyped_target_or_run(done: Project) -> None:
    for arguments in (["repro", RUN + "x"], ["repro", "trian"], ["stage", "train", RUN + "x"], ["stage", "trian", RUN]):
        what, remedy = two_lines(done.cli(*arguments))
        assert arguments[-1] in what or arguments[1] in what
        assert "did you mean" in remedy
        assert RUN in remedy or "train" in remedy


def test_an_unknown_key_in_params(done: Project) -> None:
    path = done.root / "params.yaml"
    before, kept = path.read_text(), digests(done)
    try:
        path.write_text(before.replace("    batch_size: 32", "    batchsize: 32"))
        line = path.read_text().splitlines().index("    batchsize: 32") + 1
        what, remedy = two_lines(done.cli("repro"))
        assert f"params.yaml:{line}: protocols.brief.batchsize: unknown key" in what
        assert "batch_size" in remedy
    finally:
        path.write_text(before)
    assert digests(done) == kept


@pytest.mark.parametrize("damage", ["digest", "truncated"])
def test_a_bad_archive_is_refused_and_leaves_nothing(
    entry: dict[str, Any], tmp_path: Path, damage: str, archive_server: Any, tiny_archive: Path
) -> None:
    address = archive_server.put(tiny_archive)
    archive = {**entry["sources"][0], "archive": address}
    if damage == "digest":
        archive["md5"] = "0" * 32
    else:
        served = archive_server.folder / tiny_archive.name
        served.write_bytes(served.read_bytes()[:-1000])
    project = make_project(tmp_path / "project", {**entry, "sources": [archive]})
    what, remedy = two_lines(project.cli("repro"))
    assert address in what
    assert "folder: true" in remedy
    assert not (project.root / "data" / "raw" / "cifar10-tiny").exists()
    left = [p for p in (project.root / "data").rglob("*") if p.is_file()] if (project.root / "data").exists() else []
    assert not left
    assert not (project.root / "dvc.lock").exists()


def test_the_report_is_whole_and_is_what_its_stage_writes_again(done: Project) -> None:
    path = done.root / "results" / "report.html"
    text = path.read_text(encoding="utf-8")
    page = page_checks.read(text)
    page_checks.check_whole(page, text)
    page_checks.check_usable(page)
    for claim in claims_of("4"):
        assert claim.text in text
    record = json.loads((done.root / f"models/{RUN}/run.json").read_text())
    weights = (done.root / f"models/{RUN}/model.safetensors").read_bytes()
    error = json.loads((done.root / f"evaluations/{RUN}/metrics.json").read_text())["top1_error"]
    for told in (record["fingerprint"], hashlib.sha256(weights).hexdigest(), f"test error {error:.2f} %"):
        assert told in page.text
    assert "No number of the paper is judged yet" in page.text
    assert "19 claims that can be run: 19 not run" in page.text
    assert str(done.root) not in text
    ran = done.cli("stage", "report", PYTHONHASHSEED="1", TZ="Asia/Tokyo")
    assert ran.returncode == 0, ran.stderr
    assert path.read_text(encoding="utf-8") == text


@pytest.mark.soak
def test_dvcs_own_commands_tell_an_experiment_from_the_plan(done: Project, tmp_path: Path) -> None:
    project = clone(done, tmp_path / "tried")
    assert project.run("dvc", "cache", "dir", "--local", str(done.root / ".dvc" / "cache")).returncode == 0
    assert project.run("dvc", "checkout").returncode == 0

    def said(*words: str) -> Any:
        names = {f"GIT_{who}_{what}": "t" for who in ("AUTHOR", "COMMITTER") for what in ("NAME", "EMAIL")}
        ran = project.run("dvc", *words, **names)
        assert ran.returncode == 0, ran.stdout + ran.stderr
        return json.loads(ran.stdout) if "--json" in words else ran.stdout

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
    (head,) = (each for each in said("exp", "show", "--json") if each["rev"] != "workspace")
    (slower,) = (revision for trial in head["experiments"] for revision in trial["revs"])
    assert slower["name"] == "slower"
    for each, rate, told in ((head, 0.1, before), (slower, 0.001, after)):
        data = each["data"]
        assert data["params"]["params.yaml"]["data"]["protocols"]["brief"]["learning_rate"] == rate
        assert data["metrics"][metrics]["data"] == told
    assert "slower" in said("exp", "show", "--only-changed")
