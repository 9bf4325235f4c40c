"""A Slurm cluster of one node on this machine: Debian's munged, slurmctld and slurmd, in a folder of its own."""

import os
import platform
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

PROGRAMS = ("munged", "slurmctld", "slurmd", "sbatch", "squeue", "scontrol", "scancel", "srun")
CONF = """
ClusterName=test
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={controller}
SlurmdPort={node}
SlurmUser={user}
SlurmdUser={user}
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
    user = "root"
    conf.write_text(CONF.format(folder=folder, host=host, user=user, controller=_free_port(), node=_free_port()))
    environment = {"SLURM_CONF": str(conf)}
    path = f"{os.environ['PATH']}{os.pathsep}/usr/sbin"
    files = {name: f"--{name}={folder}/munge.{name.split('-')[0]}" for name in ("pid-file", "seed-file", "log-file")}
    munged = ["munged", "--foreground", "--force", f"--key-file={key}", f"--socket={folder}/munge.socket"]
    with ExitStack() as stack:
        for name, command in {
            "munged": [*munged, *files.values()],
            "slurmctld": ["slurmctld", "-D", "-f", str(conf)],
            "slurmd": ["slurmd", "-D", "-f", str(conf), "-N", host],
        }.items():
            log = stack.enter_context((folder / f"{name}.out").open("w"))
            process = subprocess.Popen(
                command, stdout=log, stderr=log, env={**os.environ, **environment, "PATH": path}, cwd=folder
            )
            stack.callback(_end, process)
            time.sleep(0.3)
        deadline = time.monotonic() + 90
        while "idle" not in (said := _sinfo(environment)):
            assert time.monotonic() < deadline, f"the node does not come up: {said}; logs in {folder}"
            time.sleep(0.2)
        yield environment


def _sinfo(environment: dict[str, str]) -> str:
    asked = subprocess.run(
        ["sinfo", "-h", "-o", "%T"], capture_output=True, text=True, env={**os.environ, **environment}, check=False
    )
    return asked.stdout + asked.stderr


def _end(process: "subprocess.Popen[bytes]") -> None:
    process.terminate()
    try:
        process.wait(10)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def _free_port() -> int:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        return int(taken.getsockname()[1])
