"""The environment: what is pinned, what set-up says and leaves alone, what `wrn-pipe doctor` reports."""

import hashlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
import typer
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version
from typer.testing import CliRunner

from pipeline.cli import doctor

ROOT = Path(__file__).resolve().parents[1]
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


@pytest.mark.parametrize("lock", LOCKS, ids=lambda path: path.name)
def test_every_locked_package_is_hashed_and_no_host_is_named(lock: Path) -> None:
    assert "://" not in lock.read_text()
    assert not re.search(r"^\s*(-i|-f|--(?!hash=))", lock.read_text(), re.MULTILINE)
    assert pins(lock)
    for entry in entries(lock):
        assert re.search(r"^    --hash=sha256:[0-9a-f]{64}( \\)?$", entry, re.MULTILINE), entry


def test_the_locks_pin_what_pyproject_asks_for_and_builds_use_the_pinned_tools() -> None:
    pyproject = tomllib.loads((ROOT / "pyproject.toml").read_text())
    project, locked, tools = pyproject["project"], pins(LOCKS[0]), pins(LOCKS[1])
    extras = project["optional-dependencies"]
    for requirement in map(
        Requirement, (*project["dependencies"], *(text for extra in extras.values() for text in extra))
    ):
        if requirement.name == project["name"]:  # dev takes our own extras in
            assert requirement.extras <= set(extras)
            continue
        versions = locked[canonicalize_name(requirement.name)]
        assert all(each in requirement.specifier for each in versions), f"{requirement}: locked {versions}; make lock"
    asked = [Requirement(text) for text in pyproject["dependency-groups"]["tools"]]
    assert {tool.name: [Version(next(iter(tool.specifier)).version)] for tool in asked} == tools
    assert set(pyproject["build-system"]["requires"]) < {str(tool) for tool in asked}
    assert locked["setuptools"] == tools["setuptools"]


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
        for tool in ("bash", "cat", "dirname", "env", "flock", "grep", "head", "rm", "tr", "uname"):
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


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    return Machine(tmp_path)


@linux_only
def test_missing_packages_are_told_to_a_user_and_installed_by_root(machine: Machine) -> None:
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
def test_missing_packages_on_another_distribution_and_a_missing_python_are_named(machine: Machine) -> None:
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
def test_a_finished_set_up_is_recognised_and_a_changed_one_is_not(machine: Machine, damage: str) -> None:
    """It gets as far as the system packages, which are not there."""
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


# wrn-pipe doctor


def invoke_doctor(*arguments: str) -> tuple[int, str]:
    app = typer.Typer()
    app.command()(doctor.doctor)
    result = CliRunner().invoke(app, arguments)
    return result.exit_code, result.output


@pytest.mark.soak
def test_doctor_finds_this_machine_fit() -> None:
    code, output = invoke_doctor("--json")
    report = json.loads(output)
    states = {check["name"]: check["state"] for check in report["checks"]}
    assert (code, report["ok"]) == (0, True), report
    assert set(states) == {"packages", *doctor.COMMANDS, "disk"}
    assert states["packages"] == states["torch"] == states["dvc"] == states["npm"] == "ok"
    assert all(check["remedy"] for check in report["checks"] if check["state"] != "ok")


def test_doctor_prints_remedies_and_fails_when_something_required_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    healthy = doctor.Check("git", "ok", "2.39")
    limited = doctor.Check("gpu", "note", "none", "use the CPU")
    broken = doctor.Check("ffcv", "missing", "not [there]", "make setup")
    monkeypatch.setattr(doctor, "checks", lambda: [healthy, limited])
    assert invoke_doctor()[0] == 0
    monkeypatch.setattr(doctor, "checks", lambda: [healthy, limited, broken])
    code, output = invoke_doctor()
    assert code == 1
    assert "not [there]" in output
    assert output.splitlines()[-2:] == ["gpu: use the CPU", "ffcv: make setup"]
    assert invoke_doctor("--json")[0] == 1


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


def test_doctor_finds_a_folder_that_can_not_be_written(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.access", lambda *_: False)  # whatever root may
    check = doctor.check_disk()
    assert (check.state, check.found) == ("missing", f"{ROOT} is not writable")


@pytest.mark.parametrize(
    ("code", "found"),
    [
        ("print(1); print(2)", (True, "2")),
        ("raise SystemExit('error: no g++\\n  fix: install it')", (False, "error: no g++")),
        ("raise SystemExit(3)", (False, "exit code 3")),
        (f"import os; os.kill(os.getpid(), {int(signal.SIGSEGV)})", (False, "killed by SIGSEGV")),
    ],
)
def test_doctor_tells_how_a_command_ended(code: str, found: tuple[bool, str]) -> None:
    assert doctor.run(sys.executable, "-c", code) == found
