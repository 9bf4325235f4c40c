"""Real trainings of a small network, killed by real SIGKILLs wherever it hurts: nothing is lost, no bit differs."""

import multiprocessing
import os
import random
import resource
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from project import Project, make_project

from pipeline.errors import exit_on_error
from pipeline.training.device import prepare
from stages.train import main

RUNS = {"fp32": "WRN-10-1-dropout", "bf16": "WRN-10-1"}
EPOCHS = 2
FORKS = multiprocessing.get_context("forkserver")
FORKS.set_forkserver_preload(["pytest", "mlflow", "pipeline.tracking.sync", "pipeline.training.train_run"])
CALLS = ("fsync", "replace", "unlink", "rmdir", "mkdir")


def attempt(root: Path, run: str, options: dict[str, Any], kill: dict[str, Any], calls: Any) -> None:
    """Train in a process that is forked from one which has imported all. `calls` counts those that change the file
    system. `kill`:
        {"call": k, "before": bool}  SIGKILL to itself before or after the k-th of these
        {"bytes": n}       the kernel's SIGXFSZ in the middle of the write that makes a file longer than n bytes
    """
    os.chdir(root)
    os.dup2(os.open("log", os.O_WRONLY | os.O_CREAT | os.O_APPEND), 2)
    # MLflow's silence is another test's matter; a scheme that it does not know ends its part at once.
    os.environ["MLFLOW_TRACKING_URI"] = "none://"

    def counted(call: Callable[..., Any]) -> Callable[..., Any]:
        def wrapped(*arguments: Any, **more: Any) -> Any:
            calls.value += 1
            mine = calls.value == kill.get("call")
            if mine and kill["before"]:
                os.kill(os.getpid(), signal.SIGKILL)
            try:
                return call(*arguments, **more)
            finally:
                if mine:
                    os.kill(os.getpid(), signal.SIGKILL)

        return wrapped

    for name in CALLS:
        setattr(os, name, counted(getattr(os, name)))
    if "bytes" in kill:
        signal.signal(signal.SIGXFSZ, signal.SIG_DFL)  # Python ignores it
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        resource.setrlimit(resource.RLIMIT_FSIZE, (kill["bytes"], kill["bytes"]))
    prepare(torch.device("cpu"))
    torch.set_num_threads(1)
    with exit_on_error():
        main(run, **options)


class Nursery:
    """Attempts at trainings in one project."""

    def __init__(self, project: Project) -> None:
        self.project, self.log, self.kills = project, project.log, 0

    def attempt(self, run: str, kill: dict[str, Any] | None = None, **options: Any) -> tuple[int, int]:
        """The exit code, and the number of `calls`. `kill` may also say after how many `seconds`."""
        calls, how = FORKS.Value("i", lock=False), kill or {}
        process = FORKS.Process(target=attempt, args=(self.project.root, run, options, how, calls))
        process.start()
        process.join(how.get("seconds"))
        process.kill()
        process.join()
        assert process.exitcode is not None
        self.kills += process.exitcode in (-signal.SIGKILL, -signal.SIGXFSZ)
        return process.exitcode, calls.value

    def furthest(self) -> tuple[int, int]:
        """Epoch and step of the newest saved state."""
        words = [path.name.split(".")[0].split("-") for path in (self.project.root / "scratch").glob("*/epoch-*")]
        return max(((int(each[1]), int(each[3])) for each in words), default=(0, 0))


@pytest.fixture(scope="module")
def nursery(tmp_path_factory: pytest.TempPathFactory, tiny_beton: Path) -> Nursery:
    project = make_project(tmp_path_factory.mktemp("kills") / "project", beton=tiny_beton)
    schedule = {"kind": "step", "drop_after": [1], "factor": 0.2, "reset_momentum": True}

    def change(params: Any) -> None:
        brief = {**params["protocols"]["brief"], "epochs": EPOCHS, "batch_size": 130}
        params["protocols"] = {
            "fp32": {**brief, "precision": "fp32", "dropout": 0.3, "schedule": schedule},
            "bf16": brief,
        }
        (run,) = params["runs"].values()
        params["runs"] = {key: {**run, "network": network, "protocol": key} for key, network in RUNS.items()}

    project.edit(change)
    return Nursery(project)


@pytest.mark.soak
@pytest.mark.parametrize("run", RUNS)
def test_a_training_killed_anywhere_ends_with_the_same_bytes(nursery: Nursery, run: str) -> None:
    assert nursery.attempt(run, checkpoint_steps=1)[0] == 0, nursery.log.read_text()
    expected = nursery.project.published(run)
    assert f"{run}: on cpu (" in nursery.log.read_text()
    ends = len(nursery.log.read_text())

    seed = random.SystemRandom().randrange(10**6)
    print("seed of the kills:", seed)
    chance = random.Random(seed)
    before, furthest = nursery.kills, (0, 0)
    assert nursery.attempt(run, {"call": 8, "before": False}, fresh=True, checkpoint_steps=1)[0] < 0
    while nursery.furthest() != (EPOCHS, 0):
        assert nursery.kills - before < 60, nursery.log.read_text()[ends:]
        kill = chance.choice(
            [
                {"call": chance.randint(1, 30), "before": chance.random() < 0.5},
                {"call": chance.randint(8, 30), "before": chance.random() < 0.5},
                {"bytes": chance.randrange(20_000, 600_000)},
                {"seconds": chance.uniform(0.02, 0.5)},
            ]
        )
        nursery.attempt(run, kill, checkpoint_steps=1)
        # Never back behind a state that was there, whatever was being written.
        assert nursery.furthest() >= furthest
        furthest = nursery.furthest()
    # Publishing, killed before and after each of its calls.
    call = calls = 0
    while calls >= call:
        call += 1
        _, calls = nursery.attempt(run, {"call": call, "before": chance.random() < 0.5})
        shown = nursery.project.root / "models" / run
        assert not shown.exists() or nursery.project.published(run) == expected
    assert nursery.attempt(run, {"bytes": 50_000})[0] == -signal.SIGXFSZ
    assert nursery.project.published(run) == expected
    assert call > 8, "publishing has that many calls"
    assert nursery.kills - before >= 12
    assert nursery.attempt(run)[0] == 0
    assert nursery.project.published(run) == expected
    assert {path.name for path in (nursery.project.root / "models").iterdir()} <= set(RUNS)
