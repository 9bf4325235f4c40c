"""`wrn-pipe doctor`: what this machine offers a reproduction, and what to do about the parts that are not there."""

import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Annotated, Literal

import typer

ROOT = Path(__file__).resolve().parents[2]
LOCK = ROOT / "environment" / "requirements.lock"
SET_UP = "bash environment/setup.sh"
SET_UP_AGAIN = f"rm -rf .venv && {SET_UP}"
CHILD_TIMEOUT_S = 180
LOW_DISK_GB = 3
NUMPY_LOADER = "train with the numpy loader: loading.backend: numpy in params.yaml"


@dataclass(frozen=True)
class Check:
    """One line of the report."""

    name: str
    state: Literal["ok", "missing", "note"]
    """`missing`: required and not there. `note`: works, with a limit worth knowing."""
    found: str
    remedy: str = ""


class ChildFailedError(Exception):
    """A command did not end well; the message says how."""


def run_child(*command: str) -> str:
    """Standard output of a command. A crash, an error and a hang all become ChildFailedError."""
    # npm runs on the node beside it, which is not on PATH where npm is the one that set-up brought.
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")])
    run = partial(subprocess.run, cwd=ROOT, env={**os.environ, "PATH": path}, stdin=subprocess.DEVNULL)
    try:
        done = run(command, capture_output=True, text=True, timeout=CHILD_TIMEOUT_S)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise ChildFailedError(str(error)) from None
    if done.returncode < 0:
        raise ChildFailedError(f"killed by {signal.Signals(-done.returncode).name}")
    if done.returncode > 0:
        said = done.stderr.strip() or done.stdout.strip() or f"exit code {done.returncode}"
        last = [line for line in said.splitlines() if not line.startswith("  fix: ")][-1]
        raise ChildFailedError(last.rpartition("UserError: error: ")[2])
    return str(done.stdout).strip()


def run_python(*arguments: str) -> str:
    # -P: a folder of the same name in the current directory must not be taken for the package.
    return run_child(sys.executable, "-P", *arguments)


def tried(name: str, remedy: str, form: str, *command: str, fails: str = "") -> Check:
    """The last line that a command prints, in the words of `form`; missing where it fails."""
    try:
        return Check(name, "ok", form.format(run_python(*command).splitlines()[-1]))
    except ChildFailedError as error:
        return Check(name, "missing", f"{fails}{error}", remedy)


def check_python() -> Check:
    found = f"{sys.version.split()[0]} at {sys.executable}"
    if Path(sys.prefix) == ROOT / ".venv":
        return Check("python", "ok", found)
    remedy = f"{SET_UP}, then use {ROOT}/.venv/bin/wrn-pipe"
    return Check("python", "note", f"{found}, not this checkout's .venv", remedy)


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
        return Check("packages", "ok", f"all {len(pins)} as in environment/requirements.lock")
    more = f" and {len(differences) - 4} more" if len(differences) > 4 else ""
    # A stamp vouches for the environment, so only a new one is sure to be looked into.
    remedy = f"{SET_UP_AGAIN}, and run the wrn-pipe in .venv/bin"
    return Check("packages", "missing", "; ".join(differences[:4]) + more, remedy)


def check_ffcv() -> Check:
    if sys.platform != "linux":
        return Check("ffcv", "note", f"not made for {sys.platform}", NUMPY_LOADER)
    remedy = f"{SET_UP_AGAIN}; or {NUMPY_LOADER}"
    return tried("ffcv", remedy, "{}", "-c", "import ffcv.loader; print('imports')", fails="does not import: ")


def check_torch() -> list[Check]:
    """torch, GPU and bf16: see `describe_torch`."""
    try:
        return [Check(**row) for row in json.loads(run_python(__file__).splitlines()[-1])]
    except ChildFailedError as error:
        return [Check("torch", "missing", f"does not import: {error}", SET_UP_AGAIN)]


def describe_torch() -> list[Check]:
    """In a process of its own, which may crash."""
    import torch

    cuda = torch.cuda.is_available()
    gpus = [torch.cuda.get_device_properties(i) for i in range(torch.cuda.device_count())] if cuda else []
    if gpus:
        named = [f"{index}: {gpu.name}, {gpu.total_memory / 2**30:.0f} GiB" for index, gpu in enumerate(gpus)]
        gpu = Check("gpu", "ok", "; ".join(named))
    elif shutil.which("nvidia-smi"):
        remedy = f"update the NVIDIA driver to one for CUDA {torch.version.cuda}, and look at CUDA_VISIBLE_DEVICES"
        gpu = Check("gpu", "note", "an NVIDIA driver, and no GPU that torch can use", remedy)
    else:
        gpu = Check("gpu", "note", "none", "training uses the CPU, where only small networks end in reasonable time")
    if gpus:
        native = ["cuda"] * torch.cuda.is_bf16_supported(including_emulation=False)
    else:
        info = Path("/proc/cpuinfo")  # Linux only
        flags = info.read_text().split() if info.exists() else []
        native = sorted({"amx_bf16", "avx512_bf16"} & set(flags))
    slow = "precision: bf16 computes in fp32 here; run.json says so"
    bf16 = Check("native bf16", "ok", ", ".join(native)) if native else Check("native bf16", "note", "none", slow)
    return [Check("torch", "ok", torch.__version__), gpu, bf16]


def check_kernels() -> Check:
    """Whether `kernels: fused` of params.yaml works here."""
    remedy = "install g++, or set kernels: torch in params.yaml, which is slower on a CPU"
    build = "from pipeline.kernels.build_kernels import built_with; print(built_with())"
    return tried("kernels", remedy, "built by {}", "-c", build)


def check_cores_and_memory() -> Check:
    import psutil

    cores = os.cpu_count() or 1
    # macOS has no affinity to ask for.
    usable = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else cores
    memory = psutil.virtual_memory()
    free = f"{memory.available / 2**30:.1f} of {memory.total / 2**30:.1f} GiB free"
    return Check("cores, memory", "ok", f"{usable} of {cores} cores usable; {free}")


def check_npm() -> Check:
    from pipeline.data.fetch import find_npm
    from pipeline.dataset_config import SourceError

    try:
        npm = find_npm()
        return Check("npm", "ok", f"{run_child(npm, '--version')} at {npm}")
    except SourceError:
        return Check("npm", "note", "none", f"{SET_UP} brings one; only data sources of kind npm need it")
    except ChildFailedError as error:
        return Check("npm", "note", f"does not run: {error}", SET_UP_AGAIN)


def check_dvc() -> Check:
    return tried("dvc", SET_UP_AGAIN, "{}", "-m", "dvc", "--version", fails="does not run: ")


def check_git() -> Check:
    try:
        version = run_child("git", "--version").removeprefix("git version ")
        run_child("git", "rev-parse", "--git-dir")
    except ChildFailedError as error:
        return Check("git", "missing", str(error), "install git, and work in a git clone: DVC and provenance need it")
    return Check("git", "ok", version)


def check_disk() -> Check:
    if not os.access(ROOT, os.W_OK | os.X_OK):
        return Check("disk", "missing", f"{ROOT} is not writable", "make it so: every stage writes below it")
    free_gb = shutil.disk_usage(ROOT).free / 1e9
    enough, remedy = free_gb >= LOW_DISK_GB, "free some space, such as old states in scratch/: checkpoints need it"
    return Check("disk", "ok" if enough else "note", f"{free_gb:.1f} GB free for {ROOT}", "" if enough else remedy)


def check_data_folder() -> list[Check]:
    """Where the user has named one."""
    from pipeline.dataset_config import DATA_DIR

    if not (folder := os.environ.get(DATA_DIR)):
        return []
    if Path(folder).is_dir():
        return [Check("data folder", "ok", f"{DATA_DIR}={folder}")]
    return [Check("data folder", "missing", f"{DATA_DIR}={folder}: no such folder", f"correct it, or unset {DATA_DIR}")]


def check_system_packages() -> Check:
    """What setup.sh would install by the system's package manager; needed to build FFCV, not to run it."""
    command = ["bash", str(ROOT / "environment" / "setup.sh"), "--check"]
    environment = {**os.environ, "PYTHON": sys.executable}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, stdin=subprocess.DEVNULL)
    if done.returncode == 0:
        return Check("system packages", "ok", "all that building FFCV needs")
    if missing := " ".join(done.stdout.split()):
        remedy = f"needed to build FFCV again; installs them: {SET_UP}"
        return Check("system packages", "note", f"missing: {missing}", remedy)
    return Check("system packages", "note", "not checked", " ".join(done.stderr.split()))


CHECKS: tuple[Callable[[], Check | list[Check]], ...] = (
    *(check_python, check_packages, check_ffcv, check_torch, check_kernels, check_cores_and_memory),
    *(check_npm, check_dvc, check_git, check_disk, check_data_folder, check_system_packages),
)


def doctor(
    as_json: Annotated[bool, typer.Option("--json", help="Print the checks as JSON, for a program to read.")] = False,
) -> None:
    """Check this machine: environment, FFCV, GPU, tools, disk. Exit code 1 when something required is missing."""
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


if __name__ == "__main__":
    print(json.dumps([asdict(check) for check in describe_torch()]))
