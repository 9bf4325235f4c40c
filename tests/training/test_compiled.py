"""Trainings by torch.compile in processes of their own: they repeat, stop and resume to the bit."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from project import RUN, Project, make_project
from safetensors.torch import load_file

from pipeline.models.build import build, skeleton
from pipeline.models.names import parse

FILES = ("model.safetensors", "history.csv", "run.json")


@pytest.fixture
def project(tmp_path: Path, tiny_beton: Path, tiny_dataset_entry: Callable[[str], dict[str, Any]]) -> Project:
    """One run on data that is there already; MLflow's address leads nowhere."""
    made = make_project(tmp_path / "project", tiny_dataset_entry("http://127.0.0.1:9/none"))
    (made.root / "data" / "beton").mkdir(parents=True)
    (made.root / "data" / "beton" / "cifar10-tiny-rgb").symlink_to(tiny_beton)
    return made


@pytest.fixture
def start(project: Project, tmp_path: Path) -> Iterator[Callable[..., "subprocess.Popen[bytes]"]]:
    """Start the train stage, with a `cache` of what was compiled: an empty one is a machine that has compiled nothing.

    What still runs at the end of the test is killed.
    """
    started: list[subprocess.Popen[bytes]] = []

    def stage(cache: str, *arguments: str) -> "subprocess.Popen[bytes]":
        command = [sys.executable, "-c", "from pipeline.cli.main import main; main()", "stage", "train", RUN]
        environment = {"MLFLOW_TRACKING_URI": "none://", "TORCHINDUCTOR_CACHE_DIR": str(project.root / cache)}
        with (tmp_path / "log").open("ab") as file:
            process = subprocess.Popen(
                [*command, *arguments],
                cwd=project.root,
                env={**os.environ, **environment},
                stdin=subprocess.DEVNULL,
                stdout=file,
                stderr=subprocess.STDOUT,
            )
        started.append(process)
        return process

    yield stage
    for process in started:
        if process.poll() is None:
            process.kill()
            process.wait()


def plan(project: Project, network: str, **changes: Any) -> None:
    def edit(params: Any) -> None:
        params["kernels"], params["loading"]["backend"] = "compiled", "numpy"
        params["protocols"]["brief"].update(epochs=3, batch_size=96, **changes)
        params["runs"][RUN]["network"] = network

    project.edit(edit)


def published(project: Project) -> list[bytes]:
    return [(project.root / "models" / RUN / name).read_bytes() for name in FILES]


@pytest.mark.endurance
@pytest.mark.soak
def test_what_is_compiled_anew_computes_the_same_bytes(
    project: Project, start: Callable[..., "subprocess.Popen[bytes]"], tmp_path: Path
) -> None:
    plan(project, "WRN-10-1", precision="bf16")
    assert start("cache").wait() == 0, (tmp_path / "log").read_text()
    first = published(project)
    assert b'"kernels": "compiled, torch ' in first[2]
    shapes = {key: value.shape for key, value in skeleton(parse("WRN-10-1"), 10).state_dict().items()}
    weights = load_file(project.root / "models" / RUN / FILES[0])
    assert {key: value.shape for key, value in weights.items()} == shapes
    assert start("other", "--fresh").wait() == 0, (tmp_path / "log").read_text()
    assert published(project) == first


@pytest.mark.soak
def test_a_compiled_training_killed_in_an_epoch_ends_with_the_same_bytes(
    project: Project, start: Callable[..., "subprocess.Popen[bytes]"], tmp_path: Path
) -> None:
    """The last mini-batch of an epoch has another shape, and is the first or second that the next process meets."""
    plan(project, "WRN-10-1-dropout", precision="fp32", dropout=0.3, drop_last=False)
    log = tmp_path / "log"
    assert start("cache").wait() == 0, log.read_text()
    expected = published(project)
    killed = start("cache", "--fresh", "--checkpoint-steps", "1")
    while killed.poll() is None and not list((project.root / "scratch").glob("*/epoch-0001-step-00000[12].*.saf*")):
        time.sleep(0.002)
    killed.kill()
    assert killed.wait() == -signal.SIGKILL, log.read_text()
    assert start("cache").wait() == 0, log.read_text()
    assert "resuming from scratch/" in log.read_text()
    assert published(project) == expected


@pytest.mark.endurance
@pytest.mark.soak
def test_two_processes_that_compile_stop_together_and_end_with_the_same_bytes(
    project: Project, start: Callable[..., "subprocess.Popen[bytes]"], tmp_path: Path
) -> None:
    """And learn what those that do not compile learn: as far apart as rounding takes them in nine steps."""
    plan(project, "WRN-10-1", precision="fp32", processes=2)
    log = tmp_path / "log"
    project.edit(lambda params: params.update(kernels="torch"))
    assert start("cache").wait() == 0, log.read_text()
    eager = load_file(project.root / "models" / RUN / FILES[0])
    project.edit(lambda params: params.update(kernels="compiled"))
    assert start("cache").wait() == 0, log.read_text()
    expected = published(project)
    assert b'"kernels": "compiled, torch ' in expected[2]
    found = load_file(project.root / "models" / RUN / FILES[0])
    assert found.keys() == eager.keys()
    start_weights = build("WRN-10-1", 10, conv_init="fan_out", bn_init="ones", seed=1).state_dict()
    moved = sum(float((eager[key] - start_weights[key]).float().square().sum()) for key in eager) ** 0.5
    apart = sum(float((eager[key] - found[key]).float().square().sum()) for key in eager) ** 0.5
    assert 0 < apart < 0.02 * moved
    stopped = start("cache", "--fresh", "--checkpoint-steps", "1")
    while stopped.poll() is None and not list((project.root / "scratch").glob("*/epoch-0001-step-00000[12].*.saf*")):
        time.sleep(0.002)
    stopped.send_signal(signal.SIGTERM)
    assert stopped.wait() == 143, log.read_text()
    assert start("cache").wait() == 0, log.read_text()
    assert "resuming from scratch/" in log.read_text()
    assert published(project) == expected
