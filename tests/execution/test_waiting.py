"""How a training's threads wait and where they run: set before OpenMP is loaded, and only where the user has not set
it."""

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from project import RUN as TINY_RUN
from project import make_project

from pipeline.benchmarks.child import process
from pipeline.execution.waiting import USERS_OWN, USERS_OWN_BINDING, wait_briefly

ROOT = Path(__file__).resolve().parents[2]
RUN = "cifar10-wrn-40-1-quick-s1"
CORES = sorted(os.sched_getaffinity(0))
PLACES = """
import json, os, subprocess, sys
from pipeline.execution.waiting import bind_threads, on_own_core

def places(): return [sorted(os.sched_getaffinity(int(task))) for task in os.listdir("/proc/self/task")]

told = {"bound": bind_threads("fused"), "environment": [name for name in os.environ if name.startswith("OMP_P")]}
import torch
torch.ones(4_000_000).sin_()  # in parallel
told["between"] = [sorted(os.sched_getaffinity(0)), *places()]
with on_own_core():
    told["within"] = [sorted(os.sched_getaffinity(0)), *places()]
child = "import os; print(*sorted(os.sched_getaffinity(0)))"
told["child"] = subprocess.run([sys.executable, "-c", child], capture_output=True, text=True).stdout.split()
print(json.dumps(told))
"""

many = pytest.mark.skipif(len(CORES) == 1, reason="a single core")


def test_the_train_stage_sets_it_before_openmp_is_loaded(tmp_path: Path) -> None:
    """Of the stage as DVC calls it, in a folder without data. OpenMP itself tells, when it is loaded, what it reads."""
    for name in ("params.yaml", "dvc.yaml", "stages", "pipeline", "environment"):
        (tmp_path / name).symlink_to(ROOT / name)
    environment = {name: value for name, value in os.environ.items() if name not in USERS_OWN}
    ended = subprocess.run(
        [sys.executable, "-m", "stages.train", RUN],
        cwd=tmp_path,
        env={**environment, "OMP_DISPLAY_ENV": "verbose", "OMP_NUM_THREADS": str(len(CORES))},
        capture_output=True,
        text=True,
        check=False,
    )
    assert ended.returncode == 2, ended.stderr
    assert "GOMP_SPINCOUNT = '10000'" in ended.stderr
    assert f"OMP_PROC_BIND = '{'TRUE' if len(CORES) > 1 else 'FALSE'}'" in ended.stderr


@pytest.mark.parametrize("name", USERS_OWN)
def test_what_the_user_has_set_stays(name: str) -> None:
    environment = {name: "of the user's own"}
    wait_briefly(environment)
    assert environment == {name: "of the user's own"}


def places(**environment: str) -> dict[str, Any]:
    kept = {name: value for name, value in os.environ.items() if name not in (*USERS_OWN_BINDING, "OMP_NUM_THREADS")}
    told: dict[str, Any] = json.loads(
        subprocess.run(
            [sys.executable, "-c", PLACES], cwd=ROOT, env={**kept, **environment}, stdout=subprocess.PIPE, check=True
        ).stdout
    )
    return told


@many
def test_each_thread_is_bound_to_its_core_and_nothing_else_is() -> None:
    """The main thread only while it computes: what it starts at other times may run anywhere."""
    told = places()
    assert told["bound"]
    assert told["environment"] == []
    main, *threads = told["between"]
    bound = [cores for cores in threads if cores != CORES]
    assert main == CORES
    assert bound
    main, *threads = told["within"]
    assert all(main != cores for cores in bound)
    assert sorted([main, *bound]) == sorted(cores for cores in threads if cores != CORES)
    assert sorted(core for cores in [main, *bound] for core in cores) == CORES
    assert told["child"] == [str(core) for core in CORES]


@many
@pytest.mark.parametrize(
    "environment", [{"OMP_NUM_THREADS": "1"}, {"OMP_NUM_THREADS": str(len(CORES) + 1)}, {"OMP_PROC_BIND": "false"}]
)
def test_other_numbers_of_threads_and_those_the_user_has_bound_stay_as_they_are(environment: dict[str, str]) -> None:
    """Two trainings by fewer threads than cores would be bound to the same."""
    told = places(**environment)
    assert not told["bound"]
    assert all(cores == CORES for cores in [*told["between"], *told["within"]])
    assert told["environment"] == [name for name in environment if name == "OMP_PROC_BIND"]


@many
@pytest.mark.soak
def test_a_training_keeps_to_its_cores(
    tmp_path: Path, tiny_beton: Path, tiny_dataset_entry: Callable[[str], dict[str, Any]]
) -> None:
    """Of the train stage, whose main thread is seen on one core, and on all, in turn."""
    project = make_project(tmp_path / "project", tiny_dataset_entry("http://127.0.0.1:9/none"), tiny_beton)
    environment = {**os.environ, "MLFLOW_TRACKING_URI": "none://", "OMP_NUM_THREADS": str(len(CORES))}
    command = [sys.executable, "-m", "stages.train", TINY_RUN]
    seen = [0]
    with subprocess.Popen(command, cwd=project.root, env=environment, stderr=subprocess.PIPE) as training:
        while training.poll() is None:
            with suppress(ProcessLookupError):
                if (cores := len(os.sched_getaffinity(training.pid))) != seen[-1]:
                    seen.append(cores)
            time.sleep(0.001)
        assert training.stderr is not None
        assert training.returncode == 0, training.stderr.read()
    assert set(seen[1:]) == {1, len(CORES)}
    assert seen.count(1) > 2  # once is while torch is imported


def where_threads_are() -> tuple[list[list[int]], list[list[int]]]:
    """Of the process that is asked: all threads, between steps and in one."""
    import torch

    from pipeline.execution.waiting import on_own_core

    def places() -> list[list[int]]:
        return [sorted(os.sched_getaffinity(int(task))) for task in os.listdir("/proc/self/task")]

    torch.ones(4_000_000).sin_()  # in parallel
    with on_own_core():
        return places(), [sorted(os.sched_getaffinity(0))]


@pytest.mark.soak
@many
@pytest.mark.parametrize(("prepared", "kernels"), [(True, "fused"), (True, "compiled"), (False, "fused")])
def test_benchmarks_measure_with_threads_where_a_training_has_them(
    prepared: bool, kernels: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in (*USERS_OWN_BINDING, "OMP_NUM_THREADS"):
        monkeypatch.delenv(name, raising=False)
    with process(prepared, kernels) as child:
        every, main = child.submit(where_threads_are).result()
    bound = [cores for cores in every if len(cores) == 1]
    own_cores = prepared and kernels == "fused"
    assert (len(main[0]) == 1) == own_cores
    assert len(bound) == (len(CORES) if own_cores else 0)
