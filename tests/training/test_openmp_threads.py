"""How a training's threads wait and where they run: set before OpenMP is loaded, and only where the user has not set
it."""

import json
import os
import signal
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

from pipeline.training.openmp_threads import POLICY, USERS_OWN, USERS_OWN_BINDING, wait_briefly

ROOT = Path(__file__).resolve().parents[2]
RUN = "cifar10-wrn-40-1-quick-s1"
CORES = sorted(os.sched_getaffinity(0))
PLACES = """
import json, os, subprocess, sys
from pipeline.training.openmp_threads import bind_threads, on_own_core

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
MAKING_WAY = """
import json, os, time
from pathlib import Path
from pipeline.training.openmp_threads import Yielding, bind_threads, on_own_core
bound = bind_threads("fused")
import torch

def wait_for_threads(of_each_core):
    until = time.monotonic() + 60
    while len(tasks()) != of_each_core * cores:
        assert time.monotonic() < until
        time.sleep(0.01)

def tasks(): return [int(task) for task in os.listdir("/proc/self/task")]

def sleeps():
    texts = {task: Path(f"/proc/self/task/{task}/status").read_text() for task in tasks()}
    return {task: int(text.split("\\nvoluntary_ctxt_switches:")[1].split()[0]) for task, text in texts.items()}

def told():
    before, numbers = sleeps(), torch.linspace(0, 1, 1_000_000)
    for _ in range(SECTIONS):  # parallel sections, with a little between them that only the main thread does
        with on_own_core():
            numbers.sin_()
            until = time.perf_counter() + 50e-6
            while time.perf_counter() < until: pass
    after = sleeps()
    with on_own_core():
        main = sorted(os.sched_getaffinity(0))
    slept = sorted(after[task] - before[task] for task in before if task != os.getpid() and task in after)
    places = sorted(sorted(os.sched_getaffinity(task)) for task in tasks())
    return {"main": main, "places": places, "slept": slept, "bits": numbers.numpy().tobytes().hex()[:4000]}

SECTIONS, cores = 300, len(os.sched_getaffinity(0))
torch.ones(4_000_000).sin_()
yielding = Yielding()
yielding.judge(0.05, 0.05)
states = {"bound": bound, "disturbed a little": yielding.makes_way, "alone": told()}
yielding.judge(0.7, 0.6)
states["crowded"] = yielding.makes_way
yielding.judge(0.4, 0.3)
wait_for_threads(2)
states["beside"] = told()
for share in (0.0, 0.05, 0.0): yielding.judge(share, share)
states["not yet calm"] = yielding.makes_way
yielding.judge(0.0, 0.0)
wait_for_threads(1)
states["again"] = yielding.makes_way
states["alone again"] = told()
yielding.judge(0.4, 0.3)
yielding.judge(0.5, 0.4)
states["crowded later"] = yielding.makes_way
print(json.dumps(states))
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
    assert f"GOMP_SPINCOUNT = '{POLICY['GOMP_SPINCOUNT']}'" in ended.stderr
    assert f"OMP_PROC_BIND = '{'TRUE' if len(CORES) > 1 else 'FALSE'}'" in ended.stderr


def test_what_the_user_has_set_stays() -> None:
    for name in USERS_OWN:
        environment = {name: "of the user's own"}
        wait_briefly(environment)
        assert environment == {name: "of the user's own"}


def run(script: str, **environment: str) -> str:
    kept = {name: value for name, value in os.environ.items() if name not in (*USERS_OWN_BINDING, "OMP_NUM_THREADS")}
    command = [sys.executable, "-c", script]
    return subprocess.run(
        command, cwd=ROOT, env={**kept, **POLICY, **environment}, stdout=subprocess.PIPE, text=True, check=True
    ).stdout


def places(**environment: str) -> dict[str, Any]:
    told: dict[str, Any] = json.loads(run(PLACES, **environment))
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
def test_threads_make_way_and_return_and_no_bit_changes() -> None:
    """Making way they go anywhere and sleep at each section's end; then all is as it was."""
    told = json.loads(run(MAKING_WAY))
    alone, beside, again = told["alone"], told["beside"], told["alone again"]
    assert told["bound"]
    assert not told["disturbed a little"]
    assert not told["crowded"]
    assert len(alone["main"]) == 1
    assert sum(len(cores) == 1 for cores in alone["places"]) == len(CORES) - 1
    assert beside["main"] == CORES
    # Those that only sleep are OpenMP's, which binds them.
    assert sum(cores == CORES for cores in beside["places"]) == len(CORES)
    assert sum(slept > 200 for slept in beside["slept"]) >= len(CORES) - 1
    assert told["not yet calm"]
    assert not told["again"]
    assert not told["crowded later"]
    assert (again["main"], again["places"]) == (alone["main"], alone["places"])
    assert alone["bits"] == beside["bits"] == again["bits"]


@many
@pytest.mark.soak
def test_a_training_keeps_to_its_cores(
    tmp_path: Path, tiny_beton: Path, tiny_dataset_entry: Callable[[str], dict[str, Any]]
) -> None:
    """Of the train stage, whose main thread is seen on one core, and on all, in turn."""
    project = make_project(tmp_path / "project", tiny_dataset_entry("http://127.0.0.1:9/none"), tiny_beton)
    project.edit(lambda params: params["protocols"]["brief"].update(epochs=100_000))
    environment = {**os.environ, "MLFLOW_TRACKING_URI": "none://", "OMP_NUM_THREADS": str(len(CORES))}
    command = [sys.executable, "-m", "stages.train", TINY_RUN]
    seen = [0]
    with subprocess.Popen(command, cwd=project.root, env=environment) as training:
        while seen.count(1) <= 2:  # once is while torch is imported
            assert training.poll() is None, seen
            with suppress(ProcessLookupError):
                if (cores := len(os.sched_getaffinity(training.pid))) != seen[-1]:
                    seen.append(cores)
            time.sleep(0.001)
        training.terminate()
        assert training.wait() == 128 + signal.SIGTERM
    assert set(seen[1:]) == {1, len(CORES)}
