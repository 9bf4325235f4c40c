"""`wrn-pipe doctor`: what this machine offers a reproduction, and what to do about the parts that are not there."""

import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import typer

from pipeline.cli.options import Json
from pipeline.cli.output import print_json, some

ROOT = Path(__file__).resolve().parents[2]
LOCK = ROOT / "environment" / "requirements.lock"
SET_UP = "bash environment/setup.sh"
SET_UP_AGAIN = f"rm -rf .venv && {SET_UP}"
"""A stamp vouches for the environment, so only a new one is sure to be checked."""

State = Literal["ok", "missing", "note"]
"""`missing`: required and not there. `note`: works, with a limit worth knowing."""


@dataclass(frozen=True)
class Check:
    """One row of the report."""

    name: str
    state: State
    found: str
    remedy: str = ""


# -P: a folder of the same name in the current directory must not be taken for the package.
_PYTHON = (sys.executable, "-P", "-c")
_BF16 = "from pipeline.training.device import *; exit(computed_in('bf16', choose('auto')) != 'bf16' and 'none')"
_GPU = (
    "from torch import cuda; from pipeline.training.device import unusable_gpu as why; why() and exit(why()); "
    "cuda.init(); print(cuda.device_count(), cuda.get_device_name(), 'capability', *cuda.get_device_capability())"
)
COMMANDS: dict[str, tuple[Sequence[str], State, str]] = {
    "torch": ((*_PYTHON, "import torch; print(torch.__version__)"), "missing", SET_UP_AGAIN),
    "gpu": (
        (*_PYTHON, _GPU),
        "note",
        "without one only small networks train in reasonable time; with one, see its driver and CUDA_VISIBLE_DEVICES",
    ),
    "native bf16": ((*_PYTHON, _BF16), "note", "precision: bf16 computes in fp32 here; run.json says so"),
    "ffcv": (
        (*_PYTHON, "import ffcv.loader"),
        "missing" if sys.platform == "linux" else "note",  # it exists for Linux only
        f"{SET_UP_AGAIN}; or train with the numpy loader: loading.backend: numpy in params.yaml",
    ),
    "kernels": (
        (*_PYTHON, "from pipeline.kernels.build_kernels import built_with; print('built by', built_with())"),
        "missing",
        "install g++, or set kernels: torch in params.yaml, which is slower on a CPU",
    ),
    "npm": (("npm", "--version"), "note", f"{SET_UP} brings one; only data sources of kind npm need it"),
    "dvc": ((sys.executable, "-P", "-m", "dvc", "--version"), "missing", SET_UP_AGAIN),
    "locks": (
        (*_PYTHON, "from pipeline.runner.dvc import need_locks; need_locks()"),
        "missing",
        "wrn-pipe repro says what to do",
    ),
    "git": (("git", "log", "-1", "--format=commit %h"), "missing", "install git, and work in a git clone"),
}
"""Name -> a command that ends well where it is there, what it is where it is not, and the remedy."""


def by_command(name: str) -> Check:
    """One of COMMANDS: the last line that it prints, or how it fails. It may crash."""
    command, otherwise, remedy = COMMANDS[name]
    # The user's own npm comes before that of set-up, which runs on the node beside it.
    env = {**os.environ, "PATH": os.pathsep.join([os.environ.get("PATH", ""), str(Path(sys.executable).parent)])}
    stdin = subprocess.DEVNULL
    try:
        done = subprocess.run(command, cwd=ROOT, env=env, stdin=stdin, text=True, capture_output=True, timeout=180)
    except (OSError, subprocess.TimeoutExpired) as error:
        return Check(name, otherwise, str(error), remedy)
    if done.returncode == 0:
        return Check(name, "ok", done.stdout.strip().rpartition("\n")[2] or "yes")
    said = (done.stderr or done.stdout or f"exit code {done.returncode}").partition("\n  fix: ")[0]
    found = said.strip().rpartition("\n")[2].rpartition("UserError: error: ")[2]
    return Check(name, otherwise, found, remedy)


def check_packages() -> Check:
    """Against the lines of the lock file that apply to this interpreter and platform."""
    from importlib.metadata import distributions

    from packaging.requirements import Requirement
    from packaging.utils import canonicalize_name

    if not LOCK.exists():
        return Check("packages", "missing", f"{LOCK} not found", f"use wrn-pipe in a clone of the repository: {SET_UP}")
    lines = [line.rstrip(" \\") for line in LOCK.read_text().splitlines() if line and line[0] not in " #"]
    pins = [pin for pin in map(Requirement, lines) if pin.marker is None or pin.marker.evaluate()]
    installed = {canonicalize_name(each.name): each.version for each in distributions()}
    # Of TORCH_INDEX, by which setup.sh leaves these out.
    if installed.get(canonicalize_name("torch"), "").endswith("+cpu"):
        pins = [pin for pin in pins if not pin.name.startswith(("nvidia-", "cuda-", "triton"))]
    differences = []
    for pin in pins:
        here = installed.get(canonicalize_name(pin.name))
        # A build tag (torch's +cu130, +cpu) is the same release from another index, and fits.
        if here is None or not pin.specifier.contains(here, prereleases=True):
            differences.append(f"{pin.name} {here or 'not installed'} (lock: {str(pin.specifier).removeprefix('==')})")
    if not differences:
        return Check("packages", "ok", f"all {len(pins)} as in environment/requirements.lock, at {sys.prefix}")
    return Check("packages", "missing", some(differences), f"{SET_UP_AGAIN}, and run the wrn-pipe in .venv/bin")


def checks() -> list[Check]:
    """All of them."""
    from concurrent.futures import ThreadPoolExecutor

    free_gb = shutil.disk_usage(ROOT).free / 1e9
    room: State = "ok" if free_gb >= 3 else "note"
    disk = Check("disk", room, f"{free_gb:.1f} GB free for {ROOT}", "free some, such as old checkpoints in scratch/")
    with ThreadPoolExecutor(max_workers=4) as pool:  # the slow ones wait for child processes
        return [check_packages(), *pool.map(by_command, COMMANDS), disk]


def doctor(as_json: Json = False) -> None:
    """Check this machine: environment, FFCV, GPU, tools, disk. Exit code 1 when something required is missing."""
    found = checks()
    healthy = all(check.state != "missing" for check in found)
    if as_json:
        print_json({"ok": healthy, "checks": found})
    else:
        colours = {"ok": "green", "missing": "red", "note": "yellow"}
        for check in found:
            typer.echo(f"{typer.style(f'{check.state:<7}', fg=colours[check.state])}  {check.name:<15}  {check.found}")
        for check in found:
            if check.state != "ok":
                typer.echo(f"{check.name}: {check.remedy}")
    if not healthy:
        raise typer.Exit(1)
