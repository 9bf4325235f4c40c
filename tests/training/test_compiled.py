"""Trainings by torch.compile in processes of their own: they repeat, stop and resume to the bit."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from project import RUN, Project, make_project
from safetensors.torch import load_file

from pipeline.models.build import skeleton
from pipeline.models.names import parse

FILES = ("model.safetensors", "history.csv", "run.json")


@pytest.fixture
def project(tmp_path: Path, tiny_beton: Path, tiny_dataset_entry: Callable[[str], dict[str, Any]]) -> Project:
    """One run on data that is there already; MLflow's address leads nowhere."""
    made = make_project(tmp_path / "project", tiny_dataset_entry("http://127.0.0.1:9/none"))
    (made.root / "data" / "beton").mkdir(parents=True)
    (made.root / "data" / "beton" / "cifar10-tiny-rgb").symlink_to(tiny_beton)
    return made


def start(project: Project, log: Path, cache: str, *arguments: str) -> "subprocess.Popen[bytes]":
    """`cache`: where what was compiled is kept; an empty one is a machine that has compiled nothing yet."""
    command = [sys.executable, "-c", "from pipeline.cli.main import main; main()", "stage", "train", RUN, *arguments]
    environment = {"MLFLOW_TRACKING_URI": "none://", "TORCHINDUCTOR_CACHE_DIR": str(project.root / cache)}
    with log.open("ab") as file:
        return subprocess.Popen(
            command,
            cwd=project.root,
            env={**os.environ, **environment},
            stdin=subprocess.DEVNULL,
            stdout=file,
            stderr=subprocess.STDOUT,
        )


@pytest.mark.soak
@pytest.mark.parametrize(("network", "precision"), [("WRN-10-1-dropout", "fp32"), ("WRN-10-1", "bf16")])
def test_compiled_trainings_end_with_the_same_bytes_wherever_they_were_compiled_or_killed(
    project: Project, tmp_path: Path, network: str, precision: str
) -> None:
    def compile_it(params: Any) -> None:
        params["kernels"], params["loading"]["backend"] = "compiled", "numpy"
        # The last mini-batch of an epoch has another shape.
        params["protocols"]["brief"].update(
            epochs=3, batch_size=96, drop_last=False, precision=precision, dropout=0.3 if "drop" in network else 0.0
        )
        params["runs"][RUN]["network"] = network

    project.edit(compile_it)
    log, published = tmp_path / "log", project.root / "models" / RUN
    assert start(project, log, "cache").wait() == 0, log.read_text()
    expected = [(published / name).read_bytes() for name in FILES]
    assert b'"kernels": "compiled, torch ' in expected[2]
    shapes = {key: value.shape for key, value in skeleton(parse(network), 10, dropout=0.0).state_dict().items()}
    assert {key: value.shape for key, value in load_file(published / FILES[0]).items()} == shapes

    # In the midst of an epoch, so that the small mini-batch is the first or second that the next process meets.
    killed = start(project, log, "other", "--fresh", "--checkpoint-steps", "1")
    while killed.poll() is None and not list((project.root / "scratch").glob("*/epoch-0001-step-00000[12].*.saf*")):
        time.sleep(0.002)
    killed.send_signal(signal.SIGKILL)
    assert killed.wait() == -signal.SIGKILL, log.read_text()
    assert start(project, log, "other").wait() == 0, log.read_text()
    assert "resuming from scratch/" in log.read_text()
    assert [(published / name).read_bytes() for name in FILES] == expected

    assert start(project, log, "cache", "--twice", "--steps", "4").wait() == 0, log.read_text()
    assert "two trainings of 4 steps are equal" in log.read_text()
