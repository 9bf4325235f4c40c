"""Runs in jobs of a real Slurm cluster: munged, slurmctld and slurmd of this machine, with a node of two cores."""

import os
import platform
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest
from project import Project, clone, free_port, refused, told
from test_jobs import NAMES, ONE_THREAD, driving, states, three_runs, until
from tiny import IN_ITS_FOLDER

PROGRAMS = ("munged", "slurmctld", "slurmd", "sbatch", "squeue", "scontrol", "scancel", "srun")
CONF = """
ClusterName=test
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={controller}
SlurmdPort={node}
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
AuthInfo=socket={folder}/munge.socket
CredType=cred/munge
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
MpiDefault=none
ReturnToService=2
SwitchType=switch/none
KillWait=20
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd.log
NodeName={host} NodeAddr=127.0.0.1 CPUs=2 RealMemory=4000 State=UNKNOWN
PartitionName=short Nodes={host} Default=YES MaxTime=INFINITE State=UP
"""


def missing() -> str | None:
    """Why there is no cluster to be had here."""
    path = f"{os.environ['PATH']}{os.pathsep}/usr/sbin"
    if lacking := [program for program in PROGRAMS if shutil.which(program, path=path) is None]:
        return f"Slurm is not installed ({', '.join(lacking)}): apt-get install slurmctld slurmd munge"
    return None if os.geteuid() == 0 else "slurmd starts jobs as root only"


@contextmanager
def cluster(folder: Path) -> Iterator[dict[str, str]]:
    """The environment in which Slurm's commands speak to it. The folder's path must be short: sockets lie in it."""
    folder.mkdir(parents=True)
    folder.chmod(0o755)
    for name in ("state", "spool"):
        (folder / name).mkdir()
    key = folder / "munge.key"
    key.write_bytes(os.urandom(128))
    key.chmod(0o400)
    host = platform.node().partition(".")[0]
    conf = folder / "slurm.conf"
    conf.write_text(CONF.format(folder=folder, host=host, controller=free_port(), node=free_port()))
    environment = {"SLURM_CONF": str(conf)}
    path = f"{os.environ['PATH']}{os.pathsep}/usr/sbin"
    munged = ["munged", "--foreground", "--force", f"--key-file={key}", f"--socket={folder}/munge.socket"]
    munged += [f"--{name}={folder}/munge.{name}" for name in ("pid-file", "seed-file", "log-file")]
    with ExitStack() as stack:
        for name, command in {
            "munged": munged,
            "slurmctld": ["slurmctld", "-D", "-f", str(conf)],
            "slurmd": ["slurmd", "-D", "-f", str(conf), "-N", host],
        }.items():
            log = stack.enter_context((folder / f"{name}.out").open("w"))
            process = subprocess.Popen(
                command, stdout=log, stderr=log, env={**os.environ, **environment, "PATH": path}, cwd=folder
            )
            stack.callback(process.wait)
            stack.callback(process.terminate)
            time.sleep(0.3)
        asked = ["sinfo", "-h", "-o", "%T"]
        deadline = time.monotonic() + 90
        while b"idle" not in subprocess.run(asked, stdout=-1, env={**os.environ, **environment}, check=False).stdout:
            assert time.monotonic() < deadline, f"the node does not come up: logs in {folder}"
            time.sleep(0.2)
        yield environment


pytestmark = [pytest.mark.soak, pytest.mark.skipif(missing() is not None, reason=str(missing()))]
SLURM = ("--slurm", "--partition", "short", "--time", "10m", "--sbatch", "comment=test")


@pytest.fixture(scope="module")
def here() -> Iterator[dict[str, str]]:
    """What tells commands of the cluster."""
    with tempfile.TemporaryDirectory(prefix="slurm-", dir="/tmp") as short, cluster(Path(short) / "c") as commands:
        yield {**commands, **ONE_THREAD, **IN_ITS_FOLDER}


@pytest.fixture
def project(tmp_path: Path) -> Project:
    return three_runs(tmp_path / "project")


def slurm(environment: dict[str, str], *words: str) -> str:
    return told(Project(Path()).run(*words, **environment))


def queue(environment: dict[str, str]) -> dict[str, str]:
    """Job -> state."""
    shown = slurm(environment, "squeue", "--noheader", "--array", "--format", "%i %T")
    return dict(line.split(maxsplit=1) for line in shown.splitlines())


def saved_epoch(project: Project) -> int:
    """The newest that a state was saved of; 0 while there is none."""
    states = (project.root / "scratch").glob("*/epoch-*.safetensors")
    return max((int(path.name.split("-")[1]) for path in states), default=0)


def printed(project: Project) -> str:
    """By its jobs."""
    return "".join(path.read_text() for path in (project.root / "scratch/jobs/slurm").glob("*_log.out"))


def test_jobs_that_ctrl_c_left_are_found_again_and_a_preempted_one_goes_on(
    project: Project, here: dict[str, str], tmp_path: Path
) -> None:
    """The signal that Slurm sends before the end of a job's time, then Ctrl-C to the driver, then the same command."""
    project.set_brief(epochs=60)
    project.commit("60 epochs")
    serial = clone(project, tmp_path / "serial")  # trained here and without a stop
    told(serial.cli("repro", NAMES[0], **here))
    log = tmp_path / "log"
    with driving(project, log, *SLURM, "--max-jobs", "2", **here) as driver:
        until(lambda: saved_epoch(project) >= 5, log, driver)
        assert set(states(project, **here).values()) == {"running", "queued"}
        job = next(job for job, state in queue(here).items() if state == "RUNNING")
        slurm(here, "scancel", "--signal=USR2", job)
        until(lambda: "SIGTERM: finishing this step and saving" in printed(project), log, driver)
        os.killpg(driver.pid, signal.SIGINT)
        assert driver.wait(200) == 130
        # Within the block, whose end kills what still runs.
        said = log.read_text()
        assert "jobs of the cluster go on without this driver" in said
        assert f"attach again with: wrn-pipe repro {' '.join(SLURM)}" in said
        until(lambda: queue(here).get(job) == "PENDING")
        again = tmp_path / "again"
        with driving(project, again, *SLURM, "--max-jobs", "2", **here) as attached:
            # Slurm lets a job that was put back wait for two minutes, and it must wait a little: in the second in which
            # its node was told to end it, that node takes a new start for the old one and drops the job.
            until(lambda: len(queue(here)) == 1, again, attached)
            time.sleep(2)
            slurm(here, "scontrol", "update", f"jobid={job}", "starttime=now")
            assert attached.wait(500) == 0, again.read_text() + printed(project)
    assert again.read_text().count("of an earlier driver is") + again.read_text().count("made by an earlier job") == 3
    assert len(list((project.root / "scratch/jobs/slurm").glob("*_log.out"))) == 3
    assert "resuming from scratch/" in printed(project)
    assert states(project) == dict.fromkeys(NAMES, "done")
    for folder in ("models", "evaluations"):
        for path in (serial.root / folder / NAMES[0]).iterdir():
            assert (project.root / folder / NAMES[0] / path.name).read_bytes() == path.read_bytes()


def test_a_refused_or_cancelled_job_is_named_and_not_submitted_again(
    project: Project, here: dict[str, str], tmp_path: Path
) -> None:
    said = refused(project.cli("repro", "--slurm", "--partition", "none", **here))
    assert said.startswith("error: sbatch refused the jobs: ")
    assert "partition" in said
    project.set_brief(epochs=2000)
    log = tmp_path / "log"
    with driving(project, log, *SLURM, NAMES[0], **here) as driver:
        until(lambda: saved_epoch(project) >= 5, log, driver)
        (job,) = queue(here)
        slurm(here, "scancel", job)
        assert driver.wait(400) == 1
    assert f"failed: {NAMES[0]}: SIGTERM: stopped in epoch " in log.read_text()
    assert states(project)[NAMES[0]] == "stopped"
    until(lambda: not queue(here))
