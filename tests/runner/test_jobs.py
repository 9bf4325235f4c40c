"""Many runs at once by the real commands: slots of this machine, kills and Ctrl-C, failures, and what DVC records."""

import json
import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import psutil
import pytest
from filelock import FileLock
from project import ROOT, Project, clone, made, make_project, refused, told
from tiny import IN_ITS_FOLDER

from pipeline.errors import UserError
from pipeline.provenance import fingerprint
from pipeline.runner.dag import read_dag
from pipeline.runner.dvc import looked_at
from pipeline.runner.job_driver import repro_by_jobs, stale_runs
from pipeline.runner.jobs import Slots, Work
from pipeline.runner.params_file import load

pytestmark = pytest.mark.slow
RUN = "cifar10-wrn-40-1-quick-s1"
NAMES = [f"cifar10-tiny-wrn-10-1-brief-s{seed}" for seed in (1, 2, 3)]
ONE_THREAD = {"OMP_NUM_THREADS": "1"}
"""Of a serial run too: sums in another number of threads round otherwise."""
HERE = {**IN_ITS_FOLDER, **ONE_THREAD}


@pytest.fixture
def project(tmp_path: Path) -> Project:
    return three_runs(tmp_path / "project")


def three_runs(root: Path) -> Project:
    """A plan of three brief runs on a few real images, whose archive nobody has to serve."""
    project = make_project(root)

    def plan(params: Any) -> None:
        params["datasets"]["cifar10-tiny"]["sources"].append({"folder": True})
        settings = dict(params["runs"][NAMES[0]])
        params["runs"] = {name: {**settings, "seed": int(name[-1])} for name in NAMES}
        # Nothing to be built; and torch's bf16 takes minutes where the processor has no instructions for it.
        params["kernels"] = "torch"
        params["protocols"]["brief"]["precision"] = "fp32"

    project.edit(plan)
    project.commit("three runs")
    return project


def states(project: Project, **environment: str) -> dict[str, str]:
    shown = told(project.cli("status", "--json", **environment))
    return {run["run"]: run["state"] for run in json.loads(shown)["runs"]}


@contextmanager
def driving(project: Project, log: Path, *arguments: str, **environment: str) -> Iterator["subprocess.Popen[bytes]"]:
    """A driver in the background; ended with all below it."""
    driver = project.start(log, "repro", *arguments, **environment)
    try:
        yield driver
    finally:
        for process in at_work_in(project):
            process.kill()
        driver.wait()


@contextmanager
def held(project: Project) -> Iterator[None]:
    """The trainings stand still, so that none comes to its end meanwhile."""
    trainings = [process for process in at_work_in(project) if "pipeline.runner.jobs" in process.cmdline()]
    for training in trainings:
        training.suspend()
    try:
        yield
    finally:
        for training in trainings:
            training.resume()


def at_work_in(project: Project) -> list[psutil.Process]:
    return [p for p in psutil.process_iter(["cwd", "status"]) if p.info["cwd"] == str(project.root) and p.is_running()]


def until(
    condition: Callable[[], Any], log: Path = Path(os.devnull), driver: "subprocess.Popen[bytes] | None" = None
) -> None:
    deadline = time.monotonic() + 400
    while not condition():
        assert time.monotonic() < deadline, log.read_text()
        assert driver is None or driver.poll() is None, log.read_text()
        time.sleep(0.1)


@pytest.mark.soak
def test_jobs_that_ctrl_c_stopped_go_on_and_make_what_dvc_repro_makes(project: Project, tmp_path: Path) -> None:
    project.set_brief(epochs=60)
    project.commit("60 epochs")
    serial = clone(project, tmp_path / "serial")
    told(serial.cli("repro", **HERE))
    log = tmp_path / "log"
    with driving(project, log, "--jobs", "2", **HERE) as driver:
        until(lambda: log.read_text().count("runs as process") == 2, log, driver)
        until(lambda: len({path.parent for path in (project.root / "scratch").glob("*/epoch-*")}) == 2, log, driver)
        with held(project):
            found = states(project)
            second = refused(project.cli("repro", "--jobs", "1", **IN_ITS_FOLDER))
        assert sorted(found.values()) == ["not started", "running", "running"]
        assert "another wrn-pipe repro --jobs or --slurm drives" in second
        os.killpg(driver.pid, signal.SIGINT)
        assert driver.wait(200) == 130
        assert "SIGINT: stopped 2 trainings, nothing is lost" in log.read_text()
        assert "continue with: wrn-pipe repro --jobs 2" in log.read_text()
        assert not at_work_in(project)
    assert sorted(states(project).values()) == ["not started", "stopped", "stopped"]
    shown = told(project.cli("repro", "--jobs", "2", **HERE))
    assert "Running stage 'train@" not in shown
    assert "Running stage 'evaluate@" not in shown
    logs = "".join(path.read_text() for path in (project.root / "scratch/jobs").glob("*.log"))
    assert logs.count("resuming from scratch/") == 2
    assert project.lock() == serial.lock()
    assert made(project) == made(serial)
    assert project.run("dvc", "status").stdout == "Data and pipelines are up to date.\n"
    assert states(project) == dict.fromkeys(NAMES, "done")
    assert not list((project.root / "scratch").glob("*/*.safetensors"))
    assert told(project.cli("track", "sync")).count("as it was cifar10") == 3
    again = project.cli("repro", "--jobs", "2", **IN_ITS_FOLDER)
    assert "Running stage" not in told(again)
    assert "runs as" not in again.stderr


@pytest.mark.soak
def test_jobs_of_a_killed_driver_are_waited_for_and_one_that_fails_is_named(project: Project, tmp_path: Path) -> None:
    def break_one(params: Any) -> None:
        params["protocols"]["brief"].update(epochs=60)
        params["protocols"]["wild"] = {**params["protocols"]["brief"], "learning_rate": 1e30}
        params["runs"][NAMES[2]]["protocol"] = "wild"

    project.edit(break_one)
    log, next_log = tmp_path / "log", tmp_path / "next"
    with ExitStack() as stack:
        driver = stack.enter_context(driving(project, log, "--jobs", "2", **HERE))
        until(lambda: len(list((project.root / "scratch").glob("*.owner.json"))) == 2, log, driver)
        with held(project):
            driver.kill()
            driver.wait()
            after = stack.enter_context(driving(project, next_log, "--jobs", "2", **HERE))
            until(lambda: next_log.read_text().count("waiting for its end") == 2, next_log, after)
        assert after.wait(400) == 1
    said = next_log.read_text()
    assert f"{NAMES[0]}: runs as" not in said
    assert f"{NAMES[1]}: runs as" not in said
    assert said.count(f"{NAMES[2]}: run {NAMES[2]}: ") == 4  # three attempts, and the end
    assert "attempt 2 of 3 failed, retrying" in said
    assert "error: 1 run failed, named above" in said
    (line,) = (line for line in said.splitlines() if line.startswith("failed: "))
    assert f"error: run {NAMES[2]}: " in (project.root / line.rpartition("log: ")[2]).read_text()
    assert states(project) == {NAMES[0]: "done", NAMES[1]: "done", NAMES[2]: "failed"}


@pytest.mark.soak
def test_what_was_edited_meanwhile_is_not_recorded(project: Project, tmp_path: Path) -> None:
    project.set_brief(epochs=60)
    log = tmp_path / "log"
    with driving(project, log, "--jobs", "1", NAMES[0], **HERE) as driver:
        until(lambda: list((project.root / "scratch").glob("*/epoch-*")), log, driver)
        project.set_brief(epochs=61)
        assert driver.wait(400) == 1
    assert "settings, code or data were edited while it was trained" in log.read_text()
    assert not (project.root / "models" / NAMES[0]).exists()


@pytest.mark.parametrize(
    ("targets", "trained"),
    [([], True), ([RUN], True), (["tabulate"], True), (["convert"], False), (["download@cifar10"], False)],
)
def test_with_force_all_runs_behind_the_targets_are_trained(
    targets: list[str], trained: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(ROOT)
    plan = load()
    stages = read_dag(plan)
    works = stale_runs(plan, looked_at(plan, targets, stages), stages, force=True)
    assert works == ([Work(RUN, fingerprint(plan, RUN), "train")] if trained else [])


def test_one_driver_at_a_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    monkeypatch.setattr("pipeline.runner.job_driver.JOBS", tmp_path)
    with FileLock(tmp_path / "driver.lock"), pytest.raises(UserError, match="another wrn-pipe repro"):
        repro_by_jobs(load(), [], Slots([]), "wrn-pipe repro --jobs 2")
