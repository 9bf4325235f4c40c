"""`wrn-pipe doctor`: what this machine offers a reproduction, and what to do about the parts that are not there."""

import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Annotated, Literal

import typer

ROOT = Path(__file__).resolve().parents[2]
LOCK = ROOT / "environment" / "requirements.lock"
SET_UP = "bash environment/setup.sh"
SET_UP_AGAIN = f"rm -rf .venv && {SET_UP}"
"""A stamp vouches for the environment, so only a new one is sure to be checked."""
CHILD_TIMEOUT_S = 180
LOW_DISK_GB = 3
NUMPY_LOADER = "train with the numpy loader: loading.backend: numpy in params.yaml"


@dataclass(frozen=True)
class Check:
    """One row of the report."""

    name: str
    state: Literal["ok", "missing", "note"]
    """`missing`: required and not there. `note`: works, with a limit worth knowing."""
    found: str
    remedy: str = ""


def run(*command: str) -> tuple[bool, str]:
    """Whether a command ended well, and the last line that it printed, or how it failed."""
    # npm runs on the node beside it, which is not on PATH where npm is the one that set-up brought.
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")])
    child = partial(subprocess.run, cwd=ROOT, env={**os.environ, "PATH": path}, stdin=subprocess.DEVNULL, text=True)
    try:
        done = child(command, capture_output=True, timeout=CHILD_TIMEOUT_S)
    except (OSError, subprocess.TimeoutExpired) as error:
        return False, str(error)
    if done.returncode < 0:
        return False, f"killed by {signal.Signals(-done.returncode).name}"
    said = done.stdout if done.returncode == 0 else done.stderr or done.stdout or f"exit code {done.returncode}"
    lines = [line for line in said.strip().split("\n") if not line.startswith("  fix: ")]
    return done.returncode == 0, lines[-1].rpartition("UserError: error: ")[2]


def python(*arguments: str) -> tuple[str, ...]:
    # -P: a folder of the same name in the current directory must not be taken for the package.
    return (sys.executable, "-P", *arguments)


def check_command(name: str, remedy: str, *command: str) -> Check:
    ok, found = run(*command)
    return Check(name, "ok", found) if ok else Check(name, "missing", found, remedy)


def check_packages() -> Check:
    """Against the lines of the lock file that apply to this interpreter and platform."""
    from importlib.metadata import PackageNotFoundError, version

    from packaging.requirements import Requirement
    from packaging.version import Version

    if not LOCK.exists():
        return Check("packages", "missing", f"{LOCK} not found", f"use wrn-pipe in a clone of the repository: {SET_UP}")
    lines = [line.rstrip(" \\") for line in LOCK.read_text().splitlines() if line and line[0] not in " #"]
    pins = [pin for pin in map(Requirement, lines) if pin.marker is None or pin.marker.evaluate()]
    differences = []
    for pin in pins:
        locked = next(iter(pin.specifier)).version
        try:
            # A build tag (torch's +cu130, +cpu) is the same release from another index.
            if Version(installed := version(pin.name)).public != Version(locked).public:
                differences.append(f"{pin.name} {installed} (lock: {locked})")
        except PackageNotFoundError:
            differences.append(f"{pin.name} not installed (lock: {locked})")
    if not differences:
        found = f"all {len(pins)} as in environment/requirements.lock, at {sys.prefix}"
        return Check("packages", "ok", found)
    more = f" and {len(differences) - 4} more" if len(differences) > 4 else ""
    remedy = f"{SET_UP_AGAIN}, and run the wrn-pipe in .venv/bin"
    return Check("packages", "missing", "; ".join(differences[:4]) + more, remedy)


def check_ffcv() -> Check:
    if sys.platform != "linux":
        return Check("ffcv", "note", f"not made for {sys.platform}", NUMPY_LOADER)
    remedy = f"{SET_UP_AGAIN}; or {NUMPY_LOADER}"
    return check_command("ffcv", remedy, *python("-c", "import ffcv.loader; print('imports')"))


_TORCH = """
import json, torch
from pipeline.training.device import choose, computed_in
gpus = [torch.cuda.get_device_properties(i) for i in range(torch.cuda.device_count())]
named = [f"{gpu.name}, {gpu.total_memory / 2**30:.0f} GiB" for gpu in gpus]
bf16 = computed_in("bf16", choose("auto")) == "bf16"
print(json.dumps([torch.__version__, torch.version.cuda, "; ".join(named), bf16]))
"""


def check_torch() -> list[Check]:
    """torch, its GPUs and native bf16: in a process of its own, which may crash."""
    ok, said = run(*python("-c", _TORCH))
    if not ok:
        return [Check("torch", "missing", said, SET_UP_AGAIN)]
    version, cuda, gpus, bf16 = json.loads(said)
    gpu, native = Check("gpu", "ok", gpus), Check("native bf16", "ok", "yes")
    if not gpus and shutil.which("nvidia-smi"):
        remedy = f"update the NVIDIA driver to one for CUDA {cuda}, and look at CUDA_VISIBLE_DEVICES"
        gpu = Check("gpu", "note", "an NVIDIA driver, and no GPU that torch can use", remedy)
    elif not gpus:
        gpu = Check("gpu", "note", "none", "training uses the CPU, where only small networks end in reasonable time")
    if not bf16:
        native = Check("native bf16", "note", "none", "precision: bf16 computes in fp32 here; run.json says so")
    return [Check("torch", "ok", version), gpu, native]


def check_npm() -> Check:
    from pipeline.data.fetch import find_npm
    from pipeline.dataset_config import SourceError

    remedy = f"{SET_UP} brings one; only data sources of kind npm need it"
    try:
        ok, found = run(find_npm(), "--version")
    except SourceError:
        return Check("npm", "note", "none", remedy)
    return Check("npm", "ok", found) if ok else Check("npm", "note", found, remedy)


def check_disk() -> Check:
    if not os.access(ROOT, os.W_OK | os.X_OK):
        return Check("disk", "missing", f"{ROOT} is not writable", "make it so: every stage writes below it")
    free_gb = shutil.disk_usage(ROOT).free / 1e9
    if free_gb >= LOW_DISK_GB:
        return Check("disk", "ok", f"{free_gb:.1f} GB free for {ROOT}")
    remedy = "free some space, such as old checkpoints in scratch/"
    return Check("disk", "note", f"{free_gb:.1f} GB free for {ROOT}", remedy)


_KERNELS = "from pipeline.kernels.build_kernels import built_with; print('built by', built_with())"
CHECKS: tuple[Callable[[], Check | list[Check]], ...] = (
    *(check_packages, check_ffcv, check_torch),
    partial(
        check_command,
        "kernels",
        "install g++, or set kernels: torch in params.yaml, which is slower on a CPU",
        *python("-c", _KERNELS),
    ),
    check_npm,
    partial(check_command, "dvc", SET_UP_AGAIN, *python("-m", "dvc", "--version")),
    partial(
        check_command,
        "git",
        "install git, and work in a git clone: DVC needs it",
        "git",
        "log",
        "-1",
        "--format=commit %h",
    ),
    check_disk,
)


def doctor(
    as_json: Annotated[bool, typer.Option("--json", help="Print the checks as JSON, for a program to read.")] = False,
) -> None:
    """Check this machine: environment, FFCV, GPU, tools, disk. Exit code 1 when something required is missing."""
    from concurrent.futures import ThreadPoolExecutor

    with ThreadPoolExecutor(max_workers=4) as pool:  # the slow ones wait for child processes
        results = list(pool.map(lambda check: check(), CHECKS))
    checks = [check for result in results for check in (result if isinstance(result, list) else [result])]
    healthy = all(check.state != "missing" for check in checks)
    if as_json:
        typer.echo(json.dumps({"ok": healthy, "checks": [asdict(check) for check in checks]}, indent=2))
    else:
        colours = {"ok": "green", "missing": "red", "note": "yellow"}
        for check in checks:
            state = typer.style(f"{check.state:<7}", fg=colours[check.state])
            typer.echo(f"{state}  {check.name:<15}  {check.found}")
        for check in checks:
            if check.state != "ok":
                typer.echo(f"{check.name}: {check.remedy}")
    if not healthy:
        raise typer.Exit(1)
