"""Real trainings of a small network, killed by real SIGKILLs wherever it hurts: nothing is lost, no bit differs.

As a script, in the folder of a project, it imports the train stage once, then forks a process for each attempt, and
kills it where it is told to: see `serve`.
"""

import json
import os
import random
import resource
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from project import Project, make_project

RUNS = {"fp32": "WRN-10-1-dropout", "bf16": "WRN-10-1"}
FILES = ("model.safetensors", "history.csv", "run.json")
EPOCHS = 2


class Nursery:
    """Attempts at trainings in one project."""

    def __init__(self, project: Project, process: "subprocess.Popen[str]", log: Path) -> None:
        self.project, self.process, self.log = project, process, log
        self.kills = 0

    def attempt(self, run: str, kill: dict[str, Any] | None = None, **options: Any) -> dict[str, int]:
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        print(json.dumps({"run": run, "options": options, "kill": kill}), file=self.process.stdin, flush=True)
        ended: dict[str, int] = json.loads(self.process.stdout.readline() or "null")
        assert ended, self.log.read_text()
        self.kills += ended["status"] in (-signal.SIGKILL, -signal.SIGXFSZ)
        return ended

    def published(self, run: str) -> dict[str, bytes]:
        folder = self.project.root / "models" / run
        return {name: (folder / name).read_bytes() for name in FILES}

    def states(self) -> list[Path]:
        return sorted((self.project.root / "scratch").glob("*/epoch-*.safetensors"))


@pytest.fixture(scope="module")
def nursery(
    tmp_path_factory: pytest.TempPathFactory, tiny_beton: Path, tiny_dataset_entry: Callable[[str], dict[str, Any]]
) -> Iterator[Nursery]:
    project = make_project(tmp_path_factory.mktemp("kills"), tiny_dataset_entry("http://127.0.0.1:9/none"))
    schedule = {"kind": "step", "drop_after": [1], "factor": 0.2, "reset_momentum": True}

    def change(params: Any) -> None:
        brief = {**params["protocols"]["brief"], "epochs": EPOCHS, "batch_size": 64}
        params["loading"]["backend"] = "numpy"
        params["protocols"] = {
            "fp32": {**brief, "precision": "fp32", "dropout": 0.3, "schedule": schedule},
            "bf16": brief,
        }
        (run,) = params["runs"].values()
        params["runs"] = {key: {**run, "network": network, "protocol": key} for key, network in RUNS.items()}

    project.edit(change)
    (project.root / "data" / "beton").mkdir(parents=True)
    (project.root / "data" / "beton" / "cifar10-tiny-rgb").symlink_to(tiny_beton)
    log = project.root / "log"
    # MLflow's silence is another test's matter; a scheme that it does not know ends its part at once.
    path = f".{os.pathsep}{Path(__file__).parents[1]}"
    env = {**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1", "MLFLOW_TRACKING_URI": "none://"}
    with log.open("w") as errors:
        process = subprocess.Popen(
            [sys.executable, __file__],
            cwd=project.root,
            env=env,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=errors,
            text=True,
        )
        yield Nursery(project, process, log)
        process.communicate()


def position(state: Path) -> tuple[int, int]:
    """Epoch and step of a saved state."""
    words = state.name.split(".")[0].split("-")
    return int(words[1]), int(words[3])


@pytest.mark.parametrize("run", ["fp32", pytest.param("bf16", marks=pytest.mark.soak)])
def test_a_training_killed_anywhere_ends_with_the_same_bytes(nursery: Nursery, run: str) -> None:
    whole = nursery.attempt(run, checkpoint_steps=1)
    assert whole["status"] == 0, nursery.log.read_text()
    expected = nursery.published(run)
    assert f"{run}: on cpu (" in nursery.log.read_text()
    ends = len(nursery.log.read_text())

    seed = random.SystemRandom().randrange(10**6)
    print("seed of the kills:", seed)
    chance = random.Random(seed)
    before, furthest = nursery.kills, (0, 0)
    assert nursery.attempt(run, {"call": 8, "before": False}, fresh=True, checkpoint_steps=1)["status"] < 0
    while (EPOCHS, 0) not in map(position, nursery.states()):
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
        reached = max(map(position, nursery.states()), default=(0, 0))
        assert reached >= furthest
        furthest = reached
    # Publishing, killed before and after each of its calls.
    call = 0
    while True:
        call += 1
        ended = nursery.attempt(run, {"call": call, "before": chance.random() < 0.5})
        shown = nursery.project.root / "models" / run
        assert not shown.exists() or nursery.published(run) == expected
        if ended["calls"] < call:
            break
    assert nursery.attempt(run, {"bytes": 50_000})["status"] == -signal.SIGXFSZ
    assert nursery.published(run) == expected
    assert call > 8, "publishing has that many calls"
    assert nursery.kills - before >= 15
    assert nursery.attempt(run)["status"] == 0
    assert nursery.published(run) == expected
    left = [p.name for p in (nursery.project.root / "models").iterdir()]
    assert set(left) <= set(RUNS)


CALLS = ("fsync", "replace", "unlink", "rmdir", "mkdir")


def arm(kill: dict[str, Any], counter: int) -> None:
    """In the child: count the calls in the file `counter`, and set the trap."""
    done = 0

    def counted(call: Callable[..., Any]) -> Callable[..., Any]:
        def wrapped(*arguments: Any, **more: Any) -> Any:
            nonlocal done
            done += 1
            os.pwrite(counter, done.to_bytes(4, "little"), 0)
            if kill.get("call") == done and kill["before"]:
                os.kill(os.getpid(), signal.SIGKILL)
            mine = done
            try:
                return call(*arguments, **more)
            finally:
                if kill.get("call") == mine:
                    os.kill(os.getpid(), signal.SIGKILL)

        return wrapped

    for name in CALLS:
        setattr(os, name, counted(getattr(os, name)))
    if "bytes" in kill:
        signal.signal(signal.SIGXFSZ, signal.SIG_DFL)  # Python ignores it
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        resource.setrlimit(resource.RLIMIT_FSIZE, (kill["bytes"], kill["bytes"]))


def serve() -> None:
    """Read one JSON attempt a line from stdin, {"run", "options", "kill"}, and answer with {"status", "calls"}: the
    exit status as os.waitstatus_to_exitcode gives it, and how many file system calls it made before it ended. `kill`:
        {"seconds": s}     SIGKILL from here after so long
        {"call": k, "before": bool}  SIGKILL to itself before or after the k-th call that changes the file system
        {"bytes": n}       the kernel's SIGXFSZ in the middle of the write that makes a file longer than n bytes
        null               not at all
    """
    import mlflow  # noqa: F401 - as the next two, loads what each attempt would load
    import torch

    import pipeline.tracking.sync  # noqa: F401
    from pipeline.errors import exit_on_error
    from pipeline.training.device import prepare
    from stages.train import main

    def attempt(run: str, options: dict[str, Any], kill: dict[str, Any] | None) -> dict[str, int]:
        with tempfile.TemporaryFile() as counter:
            child = os.fork()
            if child == 0:
                code = 1
                try:
                    arm(kill or {}, counter.fileno())
                    with exit_on_error():
                        main(run, **options)
                    code = 0
                except SystemExit as end:
                    code = int(end.code or 0)
                finally:
                    sys.stderr.flush()
                    os._exit(code)
            if kill and "seconds" in kill:
                time.sleep(kill["seconds"])
                os.kill(child, signal.SIGKILL)  # a child that has ended is still ours to wait for
            _, status = os.waitpid(child, 0)
            counter.seek(0)
            return {"status": os.waitstatus_to_exitcode(status), "calls": int.from_bytes(counter.read(4), "little")}

    prepare(torch.device("cpu"))
    torch.set_num_threads(1)  # no thread pool yet, so that forking is safe
    for line in sys.stdin:
        print(json.dumps(attempt(**json.loads(line))), flush=True)


if __name__ == "__main__":
    serve()
