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
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from pipeline.errors import UserError

ROOT = Path(__file__).resolve().parents[2]
LOCK = ROOT / "environment" / "requirements.lock"
SET_UP = "bash environment/setup.sh"
CHILD_TIMEOUT_S = 180
LOW_DISK_GB = 3
NUMPY_LOADER = "train with the numpy loader: loading.backend: numpy in params.yaml"

DESCRIBE_TORCH = """
import json, torch
cuda = torch.cuda.is_available()
devices = [torch.cuda.get_device_properties(i) for i in range(torch.cuda.device_count())] if cuda else []
print(json.dumps({
    "version": torch.__version__,
    "built_for_cuda": torch.version.cuda,
    "devices": [[d.name, d.total_memory] for d in devices],
    "mps": torch.backends.mps.is_available(),
    "cuda_bf16": cuda and torch.cuda.is_bf16_supported(including_emulation=False),
}))
"""


BUILD_KERNELS = """
import sys
from pipeline.errors import UserError
from pipeline.kernels.build_kernels import built_with
try:
    print(built_with())
except UserError as error:
    sys.exit(error.what)
"""


@dataclass(frozen=True)
class Check:
    """One line of the report."""

    name: str
    state: Literal["ok", "missing", "note"]
    """`missing`: required and not there. `note`: works, with a limit worth knowing."""
    found: str
    remedy: str = ""


class ChildFailedError(Exception):
    """A probe in its own process did not end well; the message says how."""


def run_child(*command: str, env: dict[str, str] | None = None) -> str:
    """Standard output of a command. A crash, an error and a hang all become ChildFailedError."""
    try:
        done = subprocess.run(
            command,
            capture_output=True,
            text=True,
            timeout=CHILD_TIMEOUT_S,
            cwd=ROOT,
            env=env,
            stdin=subprocess.DEVNULL,
        )
    except subprocess.TimeoutExpired:
        raise ChildFailedError(f"no answer in {CHILD_TIMEOUT_S} s") from None
    except OSError as error:
        raise ChildFailedError(f"{command[0]}: {error.strerror}") from None
    if done.returncode < 0:
        raise ChildFailedError(f"killed by {signal.Signals(-done.returncode).name}")
    if done.returncode > 0:
        last_words = (done.stderr.strip() or done.stdout.strip() or f"exit code {done.returncode}").splitlines()[-1]
        raise ChildFailedError(last_words)
    return done.stdout.strip()


def run_python(*arguments: str) -> str:
    # -P: a folder of the same name in the current directory must not be taken for the package.
    return run_child(sys.executable, "-P", *arguments)


def read_pins(lock: Path) -> dict[str, str]:
    """Package name -> version, for the lines of a lock file that apply to this interpreter and platform."""
    from packaging.requirements import Requirement

    lines = [line.rstrip(" \\") for line in lock.read_text().splitlines() if line and line[0] not in " #"]
    requirements = [Requirement(line) for line in lines]
    return {r.name: next(iter(r.specifier)).version for r in requirements if r.marker is None or r.marker.evaluate()}


def check_python() -> Check:
    found = f"{sys.version.split()[0]} at {sys.executable}"
    if Path(sys.prefix) == ROOT / ".venv":
        return Check("python", "ok", found)
    return Check(
        "python", "note", f"{found}, not this checkout's .venv", f"{SET_UP}, then use {ROOT}/.venv/bin/wrn-pipe"
    )


def check_packages() -> Check:
    from importlib.metadata import PackageNotFoundError, version

    from packaging.version import Version

    if not LOCK.exists():
        raise UserError(
            f"no {LOCK}: this wrn-pipe does not run from a checkout", f"in a clone of the repository: {SET_UP}"
        )

    def differs(name: str, pin: str) -> str | None:
        try:
            installed = version(name)
        except PackageNotFoundError:
            return f"{name} not installed (lock: {pin})"
        # A build tag (torch's +cu130, +cpu) is the same release from another index.
        same = Version(installed).public == Version(pin).public
        return None if same else f"{name} {installed} (lock: {pin})"

    pins = read_pins(LOCK)
    differences = [text for name, pin in pins.items() if (text := differs(name, pin))]
    if not differences:
        return Check("packages", "ok", f"all {len(pins)} as in environment/requirements.lock")
    more = f" and {len(differences) - 4} more" if len(differences) > 4 else ""
    # A stamp vouches for the environment, so only a new one is sure to be looked into.
    remedy = f"rm -rf .venv && {SET_UP}, and run the wrn-pipe in .venv/bin"
    return Check("packages", "missing", "; ".join(differences[:4]) + more, remedy)


def check_ffcv() -> Check:
    if sys.platform != "linux":
        return Check("ffcv", "note", f"not made for {sys.platform}", NUMPY_LOADER)
    try:
        run_python("-c", "import ffcv.loader")
    except ChildFailedError as error:
        return Check("ffcv", "missing", f"does not import: {error}", f"rm -rf .venv && {SET_UP}; or {NUMPY_LOADER}")
    return Check("ffcv", "ok", "imports")


def cpu_bf16_flags() -> list[str]:
    info = Path("/proc/cpuinfo")  # Linux only
    flags = set(info.read_text().split()) if info.exists() else set()
    return [flag for flag in ("amx_bf16", "avx512_bf16") if flag in flags]


def check_torch() -> list[Check]:
    """torch, GPU and bf16: three lines from one import of torch."""
    try:
        facts: dict[str, Any] = json.loads(run_python("-c", DESCRIBE_TORCH).splitlines()[-1])
    except ChildFailedError as error:
        return [Check("torch", "missing", f"does not import: {error}", f"rm -rf .venv && {SET_UP}")]
    checks = [Check("torch", "ok", facts["version"])]

    if facts["devices"]:
        named = [f"{index}: {name}, {size / 2**30:.0f} GiB" for index, (name, size) in enumerate(facts["devices"])]
        checks.append(Check("gpu", "ok", "; ".join(named)))
    elif facts["mps"]:
        checks.append(Check("gpu", "note", "Apple MPS", "results differ from CUDA's in rounding; device is recorded"))
    elif shutil.which("nvidia-smi"):
        remedy = f"update the NVIDIA driver to one for CUDA {facts['built_for_cuda']}, and look at CUDA_VISIBLE_DEVICES"
        checks.append(Check("gpu", "note", "an NVIDIA driver, and no GPU that torch can use", remedy))
    else:
        checks.append(
            Check("gpu", "note", "none", "training uses the CPU, where only small networks end in reasonable time")
        )

    native = ["cuda"] if facts["cuda_bf16"] else [] if facts["devices"] else cpu_bf16_flags()
    if native:
        checks.append(Check("native bf16", "ok", ", ".join(native)))
    else:
        checks.append(Check("native bf16", "note", "none", "precision: bf16 computes in fp32 here; run.json says so"))
    return checks


def check_kernels() -> Check:
    """Whether `kernels: fused` of params.yaml works here."""
    try:
        compiler = run_python("-c", BUILD_KERNELS).splitlines()[-1]
    except ChildFailedError as error:
        remedy = "install g++, or set kernels: torch in params.yaml, which is slower on a CPU"
        return Check("kernels", "missing", str(error), remedy)
    return Check("kernels", "ok", f"built by {compiler}")


def check_cores_and_memory() -> Check:
    import psutil

    everywhere = os.cpu_count() or 1
    # macOS has no affinity to ask for.
    usable = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else everywhere
    memory = psutil.virtual_memory()
    found = (
        f"{usable} of {everywhere} cores usable; {memory.available / 2**30:.1f} of {memory.total / 2**30:.1f} GiB free"
    )
    return Check("cores, memory", "ok", found)


def check_npm() -> Check:
    from pipeline.data.fetch import find_npm
    from pipeline.dataset_config import SourceError

    # npm runs on the node beside it, which is not on PATH where npm is the one that set-up brought.
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")])
    try:
        npm = find_npm()
    except SourceError:
        return Check("npm", "note", "none", f"{SET_UP} brings one; only data sources of kind npm need it")
    try:
        return Check("npm", "ok", f"{run_child(npm, '--version', env={**os.environ, 'PATH': path})} at {npm}")
    except ChildFailedError as error:
        return Check("npm", "note", f"does not run: {error}", f"rm -rf .venv && {SET_UP}")


def check_dvc() -> Check:
    try:
        return Check("dvc", "ok", run_python("-m", "dvc", "--version"))
    except ChildFailedError as error:
        return Check("dvc", "missing", f"does not run: {error}", f"rm -rf .venv && {SET_UP}")


def check_git() -> Check:
    try:
        version = run_child("git", "--version").removeprefix("git version ")
    except ChildFailedError as error:
        return Check("git", "missing", str(error), "install git, e.g. apt-get install git")
    try:
        run_child("git", "rev-parse", "--git-dir")
    except ChildFailedError as error:
        return Check("git", "missing", f"{version}; {error}", "work in a git clone, which DVC and provenance need")
    return Check("git", "ok", version)


def check_disk() -> Check:
    free_gb = shutil.disk_usage(ROOT).free / 1e9
    found = f"{free_gb:.1f} GB free for {ROOT}"
    if not os.access(ROOT, os.W_OK | os.X_OK):
        return Check("disk", "missing", f"{ROOT} is not writable", "make it so: every stage writes below it")
    if free_gb >= LOW_DISK_GB:
        return Check("disk", "ok", found)
    return Check(
        "disk", "note", found, "free some space: a run fails when a checkpoint does not fit (old ones: scratch/)"
    )


def check_data_folder() -> list[Check]:
    """Where the user has named one."""
    from pipeline.dataset_config import DATA_DIR

    folder = os.environ.get(DATA_DIR)
    if not folder:
        return []
    if Path(folder).is_dir():
        return [Check("data folder", "ok", f"{DATA_DIR}={folder}")]
    return [Check("data folder", "missing", f"{DATA_DIR}={folder} is no folder", f"correct it, or unset {DATA_DIR}")]


def check_system_packages() -> Check:
    """What setup.sh would install by the system's package manager; needed to build FFCV, not to run it."""
    done = subprocess.run(
        ["bash", str(ROOT / "environment" / "setup.sh"), "--check"],
        env={**os.environ, "PYTHON": sys.executable},
        capture_output=True,
        text=True,
        stdin=subprocess.DEVNULL,
    )
    if done.returncode == 0:
        return Check("system packages", "ok", "all that building FFCV needs")
    missing = " ".join(done.stdout.split())
    if not missing:
        return Check("system packages", "note", "not checked", " ".join(done.stderr.split()))
    return Check(
        "system packages", "note", f"missing: {missing}", f"needed to build FFCV anew; installs them: {SET_UP}"
    )


CHECKS: tuple[Callable[[], Check | list[Check]], ...] = (
    check_python,
    check_packages,
    check_ffcv,
    check_torch,
    check_kernels,
    check_cores_and_memory,
    check_npm,
    check_dvc,
    check_git,
    check_disk,
    check_data_folder,
    check_system_packages,
)


def run_checks() -> list[Check]:
    """All checks, in the order of the report; the slow ones wait for child processes, side by side."""
    with ThreadPoolExecutor(max_workers=4) as pool:
        results = list(pool.map(lambda check: check(), CHECKS))
    return [check for result in results for check in (result if isinstance(result, list) else [result])]


def print_report(checks: list[Check]) -> None:
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    colours = {"ok": "green", "missing": "bold red", "note": "yellow"}
    console = Console()
    table = Table("check", "state", "found")
    for check in checks:
        table.add_row(check.name, f"[{colours[check.state]}]{check.state}[/]", escape(check.found))
    console.print(table)
    for check in checks:
        if check.state != "ok":
            # soft_wrap: a command that is broken over two lines cannot be copied.
            console.print(
                f"[{colours[check.state]}]{check.name}[/]: {escape(check.remedy)}", soft_wrap=True, highlight=False
            )


def doctor(
    as_json: Annotated[bool, typer.Option("--json", help="Print the checks as JSON, for a program to read.")] = False,
) -> None:
    """Check this machine: environment, FFCV, GPU, tools, disk. Exit code 1 when something required is missing."""
    checks = run_checks()
    healthy = all(check.state != "missing" for check in checks)
    if as_json:
        print(json.dumps({"ok": healthy, "checks": [asdict(check) for check in checks]}, indent=2))
    else:
        print_report(checks)
    if not healthy:
        raise typer.Exit(1)
