"""The environment: what is pinned, what set-up says and leaves alone, what `wrn-pipe doctor` reports."""

import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version
from project import ROOT, WrnPipe, told

from pipeline.cli import doctor

ENVIRONMENT = ROOT / "environment"
LOCKS = (ENVIRONMENT / "requirements.lock", ENVIRONMENT / "tools.lock")
INPUTS = (
    "environment/setup.sh",
    "environment/requirements.lock",
    "environment/tools.lock",
    "pyproject.toml",
    "environment/ffcv/opencv4.pc",
    "environment/ffcv/opencv2/opencv.hpp",
)
PYTHON = os.path.realpath(sys.executable)
BUILD_PACKAGES = "pkg-config g++ libopencv-core-dev libopencv-imgproc-dev libturbojpeg0-dev"
linux_only = pytest.mark.skipif(sys.platform != "linux", reason="FFCV and what it builds with exist on Linux only")


def entries(lock: Path) -> list[str]:
    """One string per requirement: its line and the hash lines below it."""
    return re.split(r"\n(?=\S)", lock.read_text().strip())


def pins(lock: Path) -> dict[str, list[Version]]:
    found: dict[str, list[Version]] = {}
    for entry in entries(lock):
        requirement = Requirement(entry.split("\\")[0])
        (specifier,) = requirement.specifier
        assert specifier.operator == "==", entry
        found.setdefault(canonicalize_name(requirement.name), []).append(Version(specifier.version))
    return found


# The lock files


def test_the_locks_are_hashed_and_pin_what_pyproject_asks_for() -> None:
    for lock in LOCKS:
        assert "://" not in lock.read_text(), "no host is named"
        assert not re.search(r"^\s*(-i|-f|--(?!hash=))", lock.read_text(), re.MULTILINE)
        for entry in entries(lock):
            assert re.search(r"^    --hash=sha256:[0-9a-f]{64}( \\)?$", entry, re.MULTILINE), entry
    pyproject = tomllib.loads((ROOT / "pyproject.toml").read_text())
    project, locked, tools = pyproject["project"], pins(LOCKS[0]), pins(LOCKS[1])
    extras = project["optional-dependencies"]
    for requirement in map(
        Requirement, [*project["dependencies"], *(text for extra in extras.values() for text in extra)]
    ):
        if requirement.name == project["name"]:  # dev takes our own extras in
            assert requirement.extras <= set(extras)
            continue
        versions = locked[canonicalize_name(requirement.name)]
        assert all(each in requirement.specifier for each in versions), f"{requirement}: locked {versions}; make lock"
    asked = [Requirement(text) for text in pyproject["dependency-groups"]["tools"]]
    assert {tool.name: [Version(next(iter(tool.specifier)).version)] for tool in asked} == tools
    assert set(pyproject["build-system"]["requires"]) < {str(tool) for tool in asked}
    assert locked["setuptools"] == tools["setuptools"], "builds use the pinned tools"


# Set-up


class Machine:
    """A copy of the checkout; a PATH without compiler, pkg-config and sudo, whose apt-get only notes its calls."""

    def __init__(self, folder: Path) -> None:
        self.root = folder / "checkout"
        self.bin = folder / "bin"
        self.apt_calls = folder / "apt-calls"
        for name in INPUTS:
            (self.root / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / name, self.root / name)
        self.bin.mkdir()
        tools = ("awk", "bash", "cat", "chmod", "cp", "dirname", "env", "find", "flock", "grep", "head", "mkdir")
        for tool in (*tools, "mktemp", "rm", "tr", "uname"):
            where = shutil.which(tool)
            assert where, tool
            (self.bin / tool).symlink_to(where)
        self.command("apt-get", f'echo "$*" >>{self.apt_calls}')
        self.command("id", "echo 1000")

    def command(self, name: str, body: str) -> None:
        (self.bin / name).write_text(f"#!/bin/sh\n{body}\n")
        (self.bin / name).chmod(0o755)

    def pretend_set_up(self) -> None:
        """The .venv that a finished set-up leaves, as far as set-up looks."""
        scripts = self.root / ".venv" / "bin"
        scripts.mkdir(parents=True)
        (scripts / "python").symlink_to(PYTHON)
        (scripts / "wrn-pipe").touch(mode=0o755)
        content = hashlib.sha256(b"".join((self.root / name).read_bytes() for name in INPUTS)).hexdigest()
        (self.root / ".venv" / ".set-up").write_text(f"{PYTHON} {self.root}\n{content}\n")

    def set_up(self, *arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [self.bin / "bash", self.root / "environment" / "setup.sh", *arguments],
            env={"PATH": str(self.bin), "PYTHON": PYTHON} | variables,
            capture_output=True,
            text=True,
            stdin=subprocess.DEVNULL,
            check=False,
        )


@linux_only
def test_missing_packages_are_told_to_a_user_and_installed_by_root(tmp_path: Path) -> None:
    machine = Machine(tmp_path)
    done = machine.set_up()
    install = f"apt-get install --no-install-recommends {BUILD_PACKAGES}"
    said = f"error: missing system packages: {BUILD_PACKAGES}\n  fix: sudo apt-get update && sudo {install}\n"
    assert (done.returncode, done.stderr) == (2, said)
    assert not machine.apt_calls.exists()
    assert not (machine.root / ".venv").exists()
    checked = machine.set_up("--check")
    assert (checked.returncode, checked.stdout.split(), checked.stderr) == (2, BUILD_PACKAGES.split(), "")
    machine.command("id", "echo 0")
    done = machine.set_up()
    update, call = machine.apt_calls.read_text().splitlines()
    assert update.endswith(" update")
    assert call.endswith(f" install -y --no-install-recommends {BUILD_PACKAGES}")
    # This apt-get installs nothing, and set-up does not take its word for it.
    assert done.returncode == 2
    assert "still not usable" in done.stderr


@linux_only
def test_missing_packages_on_another_distribution_and_a_missing_python_are_named(tmp_path: Path) -> None:
    machine = Machine(tmp_path)
    (machine.bin / "apt-get").unlink()
    what, fix = machine.set_up().stderr.splitlines()
    assert BUILD_PACKAGES in what
    assert "a C++ compiler, pkg-config" in fix
    done = machine.set_up(PYTHON="")
    assert done.returncode == 2
    assert done.stderr.startswith("error: no working python3.11\n  fix: install Python 3.11")


@linux_only
@pytest.mark.parametrize(
    "damage", ["none", "moved", ".venv/.set-up", ".venv/bin/python", ".venv/bin/wrn-pipe", *INPUTS[:2]]
)
def test_a_finished_set_up_is_recognised_and_a_changed_one_is_not(tmp_path: Path, damage: str) -> None:
    """It gets as far as the system packages, which are not there."""
    machine = Machine(tmp_path)
    machine.pretend_set_up()
    if damage == "moved":
        machine.root = machine.root.rename(machine.root.with_name("moved"))
    elif damage in INPUTS:
        with (machine.root / damage).open("a") as file:
            file.write("# edited\n")
    elif damage != "none":
        (machine.root / damage).unlink()
    done = machine.set_up()
    assert (done.returncode, done.stdout) == ((0, "set-up: nothing to do\n") if damage == "none" else (2, ""))


@linux_only
def test_an_environment_that_set_up_did_not_make_is_left_alone(tmp_path: Path) -> None:
    machine = Machine(tmp_path)
    machine.pretend_set_up()
    (machine.root / ".venv" / ".set-up").unlink()
    (machine.root / ".venv" / "mine").touch()
    machine.command("id", "echo 0")
    done = machine.set_up()
    assert done.returncode == 2
    assert done.stderr.startswith(f"error: {machine.root}/.venv is there and was not made by this script\n  fix: move")
    assert (machine.root / ".venv" / "mine").exists()
    assert not machine.apt_calls.exists()


@linux_only
def test_without_a_gpu_torch_comes_from_another_index_and_nothing_of_cuda(tmp_path: Path) -> None:
    machine = Machine(tmp_path)
    machine.root = machine.root.rename(machine.root.with_name("my 'project' (ü)"))
    for tool in ("g++", "pkg-config"):
        machine.command(tool, "exit 0")
    calls, lock, python = tmp_path / "uv-calls", tmp_path / "lock", machine.bin / "python"
    kept = f'for last; do :; done; cat "$last" >{lock}'
    machine.command("uv", f'echo "$* $PKG_CONFIG_PATH" >>{calls}; [ "$2" != sync ] || {{ {kept}; }}')
    made = f'mkdir -p "$3/bin"; cp {python} {machine.bin}/uv "$3/bin"; : >"$3/bin/wrn-pipe"; chmod +x "$3/bin/wrn-pipe"'
    machine.command(
        "python",
        f"""case "$1 $2" in
        "-m venv") {made};;
        "-m pip" | "- " | "-c import torch") ;;
        "-c "*realpath*) echo {python};;
        *) exec {PYTHON} "$@";;
        esac""",
    )
    said = told(machine.set_up(PYTHON=str(python), TORCH_INDEX="/builds for/cpu"))
    assert "up to 0.8 GB to download" in said
    assert "from /builds for/cpu, their hashes not checked" in said
    assert not re.search("^(torch|nvidia|cuda|triton)", lock.read_text(), re.MULTILINE)
    assert len(pins(lock)) > 150
    torch = [call for call in calls.read_text().splitlines() if "--default-index /builds for/cpu" in call]
    pinned = [f"{name}=={pins(LOCKS[0])[name][0]}" for name in ("torch", "torchvision")]
    assert [re.findall(r"torch\w*==\S+", call) for call in torch] == [pinned]
    # FFCV's build splits what it is told of OpenCV at blanks and quotes, so that none may be in the folder's name.
    assert re.search(r"sync .* /\S+/requirements\.lock /[\w./-]+\n", calls.read_text())
    # The index is remembered, until another one is named.
    assert told(machine.set_up(PYTHON=str(python))) == "set-up: nothing to do\n"
    said = told(machine.set_up(PYTHON=str(python), TORCH_INDEX=""))
    assert "up to 3.5 GB to download, 7 GB in .venv, mostly CUDA" in said
    assert lock.read_text() == LOCKS[0].read_text()


# wrn-pipe doctor


@pytest.mark.soak
def test_doctor_finds_this_machine_fit(wrn_pipe: WrnPipe) -> None:
    report = json.loads(told(wrn_pipe("doctor", "--json")))
    states = {check["name"]: check["state"] for check in report["checks"]}
    assert report["ok"] is True, report
    assert set(states) == {"packages", *doctor.COMMANDS, "disk"}
    assert states["packages"] == states["torch"] == states["dvc"] == states["npm"] == "ok"
    assert all(check["remedy"] for check in report["checks"] if check["state"] != "ok")


def test_doctor_prints_remedies_and_fails_when_something_required_is_missing(
    wrn_pipe: WrnPipe, monkeypatch: pytest.MonkeyPatch
) -> None:
    fit = [doctor.Check("git", "ok", "2.39"), doctor.Check("gpu", "note", "none", "use the CPU")]
    monkeypatch.setattr(doctor, "checks", lambda: fit)
    assert "gpu: use the CPU" in told(wrn_pipe("doctor"))
    monkeypatch.setattr(doctor, "checks", lambda: [*fit, doctor.Check("ffcv", "missing", "not [there]", "make setup")])
    for options in ([], ["--json"]):
        done = wrn_pipe("doctor", *options)
        assert done.returncode == 1
        assert "not [there]" in done.stdout
        assert "make setup" in done.stdout


def test_doctor_names_packages_that_differ_from_the_lock(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    lock = tmp_path / "requirements.lock"
    lock.write_text(
        "pytest==0.1 \\\n    --hash=sha256:00\nno-such-package==2\ntyper==9 ; python_version < '3'\n"
        f"numpy=={__import__('numpy').__version__}\n"
    )
    monkeypatch.setattr(doctor, "LOCK", lock)
    check = doctor.check_packages()
    assert check.state == "missing"
    assert check.found == f"pytest {pytest.__version__} (lock: 0.1); no-such-package not installed (lock: 2)"


def test_doctor_misses_nothing_of_cuda_beside_a_torch_for_cpus(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    lock = tmp_path / "requirements.lock"
    lock.write_text("torch==2.0\nnvidia-no-such==2\ntriton==3\n")
    monkeypatch.setattr(doctor, "LOCK", lock)
    for version, state in (("2.0", "missing"), ("2.0+cpu", "ok")):
        (tmp_path / version / "torch.dist-info").mkdir(parents=True)
        (tmp_path / version / "torch.dist-info/METADATA").write_text(f"Name: torch\nVersion: {version}\n")
        with monkeypatch.context() as patch:
            patch.setattr("sys.path", [str(tmp_path / version)])
            assert doctor.check_packages().state == state


@pytest.mark.parametrize(
    ("code", "state", "found"),
    [
        ("print(1); print(2)", "ok", "2"),
        ("raise SystemExit('error: no g++\\n  fix: install it')", "note", "error: no g++"),
        ("import os; os._exit(3)", "note", "exit code 3"),
    ],
)
def test_doctor_tells_how_a_command_ended(code: str, state: str, found: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(doctor.COMMANDS, "it", ((sys.executable, "-c", code), "note", "a remedy"))
    check = doctor.by_command("it")
    assert (check.state, check.found) == (state, found)
