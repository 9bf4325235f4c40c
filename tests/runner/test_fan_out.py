"""Many runs at once by the real commands: slots of this machine, kills and Ctrl-C, failures, and what DVC records."""

import hashlib
import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import psutil
import pytest
from project import BIN, Project, make_project

from pipeline.errors import UserError
from pipeline.runner.child_processes import modules_below, terminate
from pipeline.runner.fan_out import _need_gpus
from pipeline.runner.params_file import parse_plan
from pipeline.runner.submit import Slots, Work, slots

pytestmark = pytest.mark.slow
NAMES = [f"cifar10-tiny-wrn-10-1-brief-s{seed}" for seed in (1, 2, 3)]
ONE_THREAD = {"OMP_NUM_THREADS": "1"}
"""Of a serial run too: sums in another number of threads round otherwise."""


@pytest.fixture
def project(tmp_path: Path, tiny_raw: Path, tiny_dataset_entry: Callable[[str], dict[str, Any]]) -> Project:
    """A plan of three brief runs on a few real images, whose archive nobody has to serve."""
    return three_runs(tmp_path / "project", tiny_raw, tiny_dataset_entry)


def three_runs(root: Path, tiny_raw: Path, tiny_dataset_entry: Callable[[str], dict[str, Any]]) -> Project:
    entry = tiny_dataset_entry("http://127.0.0.1:9/cifar-10-tiny.tar.gz")
    entry["sources"].append({"folder": True})
    project = make_project(root, entry)

    def plan(params: Any) -> None:
        settings = dict(params["runs"][NAMES[0]])
        params["runs"] = {name: {**settings, "seed": int(name[-1])} for name in NAMES}
        params["loading"]["backend"] = "numpy"
        # Nothing to be built; and torch's bf16 takes minutes where the processor has no instructions for it.
        params["kernels"] = "torch"
        params["protocols"]["brief"]["precision"] = "fp32"

    project.edit(plan)
    project.commit("three runs")
    return project


@pytest.fixture(scope="session")
def folder(tiny_archive: Path) -> dict[str, str]:
    """What tells the download stage where the archive lies."""
    return {"WRN_PIPE_DATA_DIR": str(tiny_archive.parent)}


def digests(project: Project) -> dict[str, str]:
    kept = [p for top in ("data", "models", "evaluations", "results") for p in (project.root / top).rglob("*")]
    return {str(p.relative_to(project.root)): hashlib.sha256(p.read_bytes()).hexdigest() for p in kept if p.is_file()}


def states(project: Project, **environment: str) -> dict[str, str]:
    ran = project.cli("status", "--json", **environment)
    assert ran.returncode == 0, ran.stderr
    return {run["run"]: run["state"] for run in json.loads(ran.stdout)["runs"]}


@contextmanager
def driving(project: Project, log: Path, *arguments: str, **environment: str) -> Iterator["subprocess.Popen[bytes]"]:
    """A driver in the background, in a session of its own as a terminal gives it; ended with all below it."""
    with log.open("w") as file:
        driver = subprocess.Popen(
            [sys.executable, "-c", "from pipeline.cli.main import main; main()", "repro", *arguments],
            cwd=project.root,
            env={**os.environ, "PATH": f"{BIN}{os.pathsep}{os.environ['PATH']}", **environment},
            stdout=file,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        try:
            yield driver
        finally:
            for process in at_work_in(project):
                process.kill()
            driver.kill()
            driver.wait()


@contextmanager
def held(driver: "subprocess.Popen[bytes]") -> Iterator[None]:
    """The driver's trainings stand still, so that none comes to its end meanwhile."""
    trainings = modules_below(driver.pid, "pipeline.runner.job")
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
    condition: Callable[[], Any],
    log: Path = Path(os.devnull),
    driver: "subprocess.Popen[bytes] | None" = None,
    seconds: float = 400,
    every: float = 0.1,
) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, log.read_text()
        assert driver is None or driver.poll() is None, log.read_text()
        time.sleep(every)


def pending(process: psutil.Process, signum: signal.Signals) -> bool:
    (mask,) = re.findall(r"ShdPnd:\s*(\w+)", Path(f"/proc/{process.pid}/status").read_text())
    return bool(int(mask, 16) >> (signum - 1) & 1)


@pytest.mark.soak
def test_ctrl_c_saves_what_trains_and_the_same_command_goes_on(
    project: Project, folder: dict[str, str], tmp_path: Path
) -> None:
    project.edit(lambda params: params["protocols"]["brief"].update(epochs=60))
    log = tmp_path / "log"
    with driving(project, log, "--jobs", "2", **folder, **ONE_THREAD) as driver:
        until(lambda: log.read_text().count("runs as process") == 2, log, driver)
        until(lambda: len({path.parent for path in (project.root / "scratch").glob("*/epoch-*")}) == 2, log, driver)
        with held(driver):
            found = states(project)
            second = project.cli("repro", "--jobs", "1", **folder)
        assert sorted(found.values()) == ["not started", "running", "running"]
        assert second.returncode == 2
        assert "another wrn-pipe repro --jobs or --slurm drives" in second.stderr
        os.killpg(driver.pid, signal.SIGINT)
        assert driver.wait(200) == 130
        assert "SIGINT: stopped 2 trainings, nothing is lost" in log.read_text()
        assert "continue with: wrn-pipe repro --jobs 2" in log.read_text()
        assert not at_work_in(project)
    assert sorted(states(project).values()) == ["not started", "stopped", "stopped"]
    project.edit(lambda params: params["runs"].pop(NAMES[2]))
    ran = project.cli("repro", "--jobs", "2", **folder, **ONE_THREAD)
    assert ran.returncode == 0, ran.stderr
    logs = "".join(path.read_text() for path in (project.root / "scratch/jobs/local").glob("*_log.out"))
    assert logs.count("resuming from scratch/") == 2


@pytest.mark.soak
@pytest.mark.parametrize("signals", [1, 2])
def test_a_step_that_takes_seconds_is_finished_unless_the_driver_is_told_twice(
    project: Project, folder: dict[str, str], tmp_path: Path, signals: int
) -> None:
    name, log = "cifar10-tiny-wrn-16-8-brief-s1", tmp_path / "log"

    def plan(params: Any) -> None:
        params["runs"] = {name: {**params["runs"][NAMES[0]], "network": "WRN-16-8"}}
        params["protocols"]["brief"].update(epochs=60, batch_size=130)

    project.edit(plan)
    jobs = project.root / "scratch/jobs/local"
    with driving(project, log, "--jobs", "1", **folder, **ONE_THREAD) as driver:
        until(lambda: list(jobs.glob("*_log.out")), log, driver)
        until(lambda: "state saved in" in next(jobs.glob("*_log.out")).read_text(), log, driver)
        (training,) = modules_below(driver.pid, "pipeline.runner.job")
        driver.send_signal(signal.SIGTERM)
        if signals == 2:
            until(lambda: "finishing this step" in next(jobs.glob("*_log.out")).read_text(), log, every=0.002)
            training.suspend()  # or it may be over before the driver has told it again
            driver.send_signal(signal.SIGTERM)
            until(lambda: pending(training, signal.SIGTERM), log, driver)
            training.resume()
        assert driver.wait(200) == 143, log.read_text()
    (job,) = jobs.glob("*_log.out")
    assert ("error: SIGTERM: stopped" in job.read_text()) == (signals == 1)
    assert "SIGTERM: finishing this step and saving" in job.read_text()
    kept = "nothing is lost" if signals == 1 else "their last saved states are kept"
    assert f"SIGTERM: stopped 1 training, {kept}" in log.read_text()


def test_a_process_that_ends_meanwhile_is_no_error() -> None:
    two_children = """
import os, subprocess, sys, time
os.fork() or os._exit(0)
subprocess.Popen([sys.executable, "-m", "timeit", "import time; time.sleep(600)"])
print(flush=True)
time.sleep(600)
"""
    parent = subprocess.Popen([sys.executable, "-c", two_children], stdout=subprocess.PIPE)
    try:
        assert parent.stdout
        parent.stdout.readline()
        zombie, other = psutil.Process(parent.pid).children()
        until(lambda: zombie.status() == psutil.STATUS_ZOMBIE)
        until(lambda: modules_below(parent.pid, "timeit") == [other], seconds=20)
        terminate([zombie, other])
        until(lambda: other.status() == psutil.STATUS_ZOMBIE)
    finally:
        for process in psutil.Process(parent.pid).children():
            process.kill()
        parent.kill()
        parent.wait()
    terminate([zombie, other])
    assert modules_below(parent.pid, "timeit") == []


@pytest.mark.soak
def test_a_killed_driver_leaves_jobs_that_the_next_one_finds(
    project: Project, folder: dict[str, str], tmp_path: Path
) -> None:
    project.edit(lambda params: params["protocols"]["brief"].update(epochs=60))
    both = ("--jobs", "2", NAMES[0], NAMES[1])
    log = tmp_path / "log"
    with ExitStack() as stack:
        driver = stack.enter_context(driving(project, log, *both, **folder, **ONE_THREAD))
        until(lambda: log.read_text().count("runs as process") == 2, log, driver)
        next_log = tmp_path / "next"
        with held(driver):
            driver.kill()
            driver.wait()
            after = stack.enter_context(driving(project, next_log, *both, **folder, **ONE_THREAD))
            until(lambda: next_log.read_text().count("of an earlier driver is running") == 2, next_log, after)
        assert after.wait(400) == 0, next_log.read_text()
        assert "runs as" not in next_log.read_text()
    assert len(list((project.root / "scratch/jobs/local").glob("*_log.out"))) == 2
    assert states(project) == {NAMES[0]: "done", NAMES[1]: "done", NAMES[2]: "not started"}


@pytest.mark.soak
def test_a_run_that_fails_is_tried_three_times_and_named_and_the_others_go_on(
    project: Project, folder: dict[str, str]
) -> None:
    def break_one(params: Any) -> None:
        params["protocols"]["wild"] = {**params["protocols"]["brief"], "learning_rate": 1e30}
        params["runs"][NAMES[1]]["protocol"] = "wild"

    project.edit(break_one)
    ran = project.cli("repro", "--jobs", "2", **folder, **ONE_THREAD)
    assert ran.returncode == 1, ran.stderr
    assert ran.stderr.count(f"{NAMES[1]}: run {NAMES[1]}: ") == 4  # three attempts, and the end
    assert "attempt 2 of 3 failed, again" in ran.stderr
    assert "given up after attempt 3" in ran.stderr
    assert "error: 1 run failed, named above" in ran.stderr
    (line,) = (line for line in ran.stderr.splitlines() if line.startswith("failed: "))
    assert "non-finite loss" in (project.root / line.rpartition("log: ")[2]).read_text()
    assert states(project) == {NAMES[0]: "done", NAMES[1]: "failed", NAMES[2]: "done"}


@pytest.mark.soak
def test_what_was_edited_meanwhile_is_not_recorded(project: Project, folder: dict[str, str], tmp_path: Path) -> None:
    project.edit(lambda params: params["protocols"]["brief"].update(epochs=60))
    log = tmp_path / "log"
    with driving(project, log, "--jobs", "1", NAMES[0], **folder, **ONE_THREAD) as driver:
        until(lambda: log.read_text().count("runs as process") == 1, log, driver)
        until(lambda: list((project.root / "scratch").glob("*/epoch-*")), log, driver)
        project.edit(lambda params: params["protocols"]["brief"].update(epochs=61))
        assert driver.wait(400) == 1
    assert "settings, code or data were edited while it was trained" in log.read_text()
    assert not (project.root / "models" / NAMES[0]).exists()


def test_runs_of_several_processes_are_no_work_for_slots_with_one_gpu(project: Project) -> None:
    project.edit(lambda params: params["protocols"]["brief"].update(processes=2))
    plan = parse_plan((project.root / "params.yaml").read_text(), Path("params.yaml"))
    work = Work(NAMES[0], "fingerprint", "train")
    with pytest.raises(UserError, match="takes 2 processes with a GPU each") as error:
        _need_gpus(plan, [work], Slots(slots(2, ["0", "1"])))
    assert f"wrn-pipe repro train@{NAMES[0]}" in error.value.remedy
    _need_gpus(plan, [work], Slots(slots(1, [])))
    _need_gpus(plan, [replace(work, stage="evaluate")], Slots(slots(2, ["0", "1"])))


def test_jobs_that_can_not_be_noted_are_a_mistake_with_a_remedy(project: Project) -> None:
    (project.root / "scratch").write_text("a file")
    ran = project.cli("repro", "--jobs", "1")
    assert ran.returncode == 2
    assert ran.stderr.startswith("error: can not write scratch/jobs/driver.lock: ")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--jobs", "2", "--slurm"), "--jobs with --slurm"),
        (("--gpus", "1"), "--gpus without --slurm"),
        (("--partition", "gpu"), "--partition without --slurm"),
        (("--jobs", "1000"), "--jobs 1000 on "),
    ],
)
def test_options_that_do_not_fit(project: Project, arguments: tuple[str, ...], words: str) -> None:
    ran = project.cli("repro", *arguments)
    assert ran.returncode == 2
    what, remedy = ran.stderr.splitlines()
    assert what.startswith(f"error: {words}")
    assert remedy.startswith("  fix: ")


def test_without_a_cluster(project: Project, tmp_path: Path) -> None:
    git = tmp_path / "bin"
    git.mkdir()
    ran = project.cli("repro", "--slurm", PATH=str(git))
    assert ran.returncode == 2
    assert ran.stderr.startswith("error: --slurm needs sbatch, which is not here\n  fix: ")
