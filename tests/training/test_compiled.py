"""A training by torch.compile in processes of its own: it stops and resumes to the bit."""

import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from project import RUN, make_project
from safetensors.torch import load_file

from pipeline.models.names import parse
from pipeline.models.resnet import skeleton

FILES = ("model.safetensors", "history.csv", "run.json")


@pytest.mark.soak
def test_a_compiled_training_killed_in_an_epoch_ends_with_the_same_bytes(
    tmp_path: Path, tiny_beton: Path, tiny_dataset_entry: Callable[[str], dict[str, Any]]
) -> None:
    """The last mini-batch of an epoch has another shape, and is the first or second that the next process meets."""
    pytest.importorskip("pipeline.kernels.apply")
    project = make_project(tmp_path / "project", tiny_dataset_entry("http://127.0.0.1:9/none"), tiny_beton)
    settings = {"epochs": 3, "batch_size": 96, "precision": "fp32", "dropout": 0.3, "drop_last": False}
    cache = {"TORCHINDUCTOR_CACHE_DIR": str(tmp_path / "cache"), "MLFLOW_TRACKING_URI": "none://"}
    folder, log = project.root / "models" / RUN, tmp_path / "log"

    def edit(params: Any) -> None:
        params["kernels"], params["loading"]["backend"] = "compiled", "numpy"
        params["protocols"]["brief"].update(settings)
        params["runs"][RUN]["network"] = "WRN-10-1-dropout"

    def published() -> list[bytes]:
        done = project.cli("stage", "train", RUN, **cache)
        assert done.returncode == 0, done.stderr
        log.write_text(done.stderr)
        return [(folder / name).read_bytes() for name in FILES]

    project.edit(edit)
    expected = published()
    assert b'"kernels": "compiled, torch ' in expected[2]
    shapes = {key: value.shape for key, value in skeleton(parse("WRN-10-1"), 10).state_dict().items()}
    assert {key: value.shape for key, value in load_file(folder / FILES[0]).items()} == shapes
    killed = project.start(log, "stage", "train", RUN, "--fresh", "--checkpoint-steps", "1", **cache)
    while killed.poll() is None and not list((project.root / "scratch").glob("*/epoch-0001-step-00000[12].*.saf*")):
        time.sleep(0.002)
    killed.kill()
    assert killed.wait() == -signal.SIGKILL, log.read_text()
    assert published() == expected
    assert "resuming from scratch/" in log.read_text()
