"""Runs in jobs of a real Slurm cluster: slurmctld and slurmd of this machine, with a node of two cores."""

import os
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import slurm_cluster
from project import Project
from test_fan_out import NAMES, ONE_THREAD, driving, states, three_runs, until

pytestmark = [
    pytest.mark.soak,
    pytest.mark.skipif(slurm_cluster.missing() is not None, reason=str(slurm_cluster.missing())),
]
SLURM = ("--slurm", "--partition", "short", "--time", "10m", "--sbatch", "comment=test")


@pytest.fixture(scope="module")
def here(cluster: dict[str, str], tiny_archive: Path) -> dict[str, str]:
    return {**cluster, **ONE_THREAD, "WRN_PIPE_DATA_DIR": str(tiny_archive.parent)}


@pytest.fixture
def project(tmp_path: Path, tiny_raw: Path, tiny_dataset_entry: Callable[[str], dict[str, Any]]) -> Project:
    return three_runs(tmp_path / "project", tiny_raw, tiny_dataset_entry)


@pytest.fixture(scope="module")
def serial(
    here: dict[str, str],
    tmp_path_factory: pytest.TempPathFactory,
    tiny_raw: Path,
    tiny_dataset_entry: Callable[[str], dict[str, Any]],
) -> Project:
    """60 epochs of one run, trained here and without a stop."""
    project = sixty_epochs(three_runs(tmp_path_factory.mktemp("serial") / "project", tiny_raw, tiny_dataset_entry))
    ran = project.cli("repro", NAMES[0], **here)
    assert ran.returncode == 0, ran.stderr
    return project


def sixty_epochs(project: Project) -> Project:
    project.edit(lambda params: params["protocols"]["brief"].update(epochs=60))
    return project


def slurm(environment: dict[str, str], *words: str) -> str:
    asked = subprocess.run(words, capture_output=True, text=True, env={**os.environ, **environment}, check=False)
    assert asked.returncode == 0, asked.stderr
    return asked.stdout


def queue(environment: dict[str, str]) -> dict[str, str]:
    """Job -> state."""
    told = slurm(environment, "squeue", "--noheader", "--array", "--format", "%i %T")
    return dict(line.split(maxsplit=1) for line in told.splitlines())


def saved_epoch(project: Project) -> int:
    """The newest that a state was saved of; 0 while there is none."""
    states = (project.root / "scratch").glob("*/epoch-*.safetensors")
    return max((int(path.name.split("-")[1]) for path in states), default=0)


def printed(project: Project) -> str:
    """By its jobs."""
    return "".join(path.read_text() for path in (project.root / "scratch/jobs/slurm").glob("*_log.out"))


@pytest.mark.endurance
def test_ctrl_c_leaves_jobs_that_the_same_command_finds(project: Project, here: dict[str, str], tmp_path: Path) -> None:
    sixty_epochs(project)
    log = tmp_path / "log"
    with driving(project, log, *SLURM, **here) as driver:
        until(lambda: "runs as job" in log.read_text(), log, driver)
        found = states(project, **here)
        assert set(found.values()) == {"running", "queued"}
        os.killpg(driver.pid, signal.SIGINT)
        assert driver.wait(200) == 130
        # Within the block, whose end kills what still runs.
        said = log.read_text()
        assert "jobs of the cluster go on without this driver" in said
        assert f"attach again with: wrn-pipe repro {' '.join(SLURM)}" in said
        assert queue(here)
        ran = project.cli("repro", *SLURM, **here)
        assert ran.returncode == 0, ran.stderr
    assert ran.stderr.count("of an earlier driver is") + ran.stderr.count("made by an earlier job") == 3
    assert len(list((project.root / "scratch/jobs/slurm").glob("*_log.out"))) == 3
    assert states(project) == dict.fromkeys(NAMES, "done")


@pytest.mark.parametrize(
    "how", ["signal", *(pytest.param(how, marks=pytest.mark.endurance) for how in ("kill", "lost"))]
)
def test_a_preempted_job_goes_on_where_it_was(
    how: str, project: Project, serial: Project, here: dict[str, str], tmp_path: Path
) -> None:
    """signal: as before the end of a job's time, which it answers by saving; kill: as when a node is lost; lost: the
    job that was put back does not start again, so that the driver must submit another one."""
    sixty_epochs(project)
    log = tmp_path / "log"
    with driving(project, log, *SLURM, NAMES[0], **here) as driver:
        until(lambda: saved_epoch(project) >= 5, log, driver)
        (job,) = queue(here)
        if how == "kill":
            slurm(here, "scontrol", "requeue", job)
        else:
            slurm(here, "scancel", "--signal=USR2", job)
        until(lambda: queue(here).get(job) == "PENDING", log, driver)
        if how != "kill":
            assert "SIGTERM: finishing this step and saving" in printed(project)
        if how == "lost":
            (pickled,) = (project.root / "scratch/jobs/slurm").glob("*_submitted.pkl")
            pickled.write_bytes(b"")
        # Slurm lets a job that was put back wait for two minutes, and it must wait a little: in the second in which its
        # node was told to end it, that node takes a new start for the old one ("credential revoked") and drops the job.
        until(lambda: slurm(here, "sinfo", "--noheader", "--format", "%T").strip() == "idle", log, driver)
        time.sleep(2)
        slurm(here, "scontrol", "update", f"jobid={job}", "starttime=now")
        assert driver.wait(500) == 0, log.read_text() + printed(project)
    assert "resuming from scratch/" in printed(project)
    said = log.read_text()
    assert said.count("runs as job") >= 1
    again = "ended without a word" in said and "attempt 1 of 3 failed, again" in said
    assert again == (how == "lost"), said + printed(project)
    for folder in ("models", "evaluations"):
        for path in (serial.root / folder / NAMES[0]).iterdir():
            assert (project.root / folder / NAMES[0] / path.name).read_bytes() == path.read_bytes()


def test_a_cancelled_job_is_named_and_not_submitted_again(
    project: Project, here: dict[str, str], tmp_path: Path
) -> None:
    project.edit(lambda params: params["protocols"]["brief"].update(epochs=2000))
    log = tmp_path / "log"
    with driving(project, log, *SLURM, NAMES[0], **here) as driver:
        until(lambda: saved_epoch(project) >= 5, log, driver)
        (job,) = queue(here)
        slurm(here, "scancel", job)
        assert driver.wait(400) == 1
    assert f"failed: {NAMES[0]}: SIGTERM: stopped in epoch " in log.read_text()
    assert states(project)[NAMES[0]] == "stopped"
    while queue(here):
        time.sleep(0.5)


def test_refused_jobs(project: Project, here: dict[str, str]) -> None:
    ran = project.cli("repro", "--slurm", "--partition", "none", **here)
    assert ran.returncode == 2, ran.stderr
    assert "error: sbatch refused the jobs: " in ran.stderr
    assert "partition" in ran.stderr
