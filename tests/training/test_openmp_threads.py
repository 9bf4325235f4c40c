"""How a training's threads wait and where they run: set before OpenMP is loaded, and only where the user has not set
it."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from pipeline.training.openmp_threads import POLICY, USERS_OWN, USERS_OWN_BINDING, wait_briefly

ROOT = Path(__file__).resolve().parents[2]
RUN = "cifar10-wrn-40-1-quick-s1"
CORES = sorted(os.sched_getaffinity(0))
TOLD = """
import json, os, subprocess, sys, time
from pathlib import Path
from pipeline.training.openmp_threads import Yielding, bind_threads, on_own_core

def tasks(): return [int(task) for task in os.listdir("/proc/self/task")]

def sleeps():
    texts = {task: Path(f"/proc/self/task/{task}/status").read_text() for task in tasks()}
    return {task: int(text.split("\\nvoluntary_ctxt_switches:")[1].split()[0]) for task, text in texts.items()}

def told():
    before, numbers = sleeps(), torch.linspace(0, 1, 1_000_000)
    for _ in range(300):  # parallel sections, with a little between them that only the main thread does
        with on_own_core():
            numbers.sin_()
            until = time.perf_counter() + 50e-6
            while time.perf_counter() < until: pass
    after = sleeps()
    with on_own_core():
        main = sorted(os.sched_getaffinity(0))
    slept = [after[task] - before[task] for task in before if task != os.getpid() and task in after]
    others = sorted(sorted(os.sched_getaffinity(task)) for task in tasks() if task != os.getpid())
    return {"main": main, "others": others, "slept": slept, "bits": numbers.numpy().tobytes().hex()[:4000]}

def wait_for_threads(number):
    until = time.monotonic() + 60
    while len(tasks()) != number:
        assert time.monotonic() < until
        time.sleep(0.01)

states = {"bound": bind_threads("fused"), "environment": [name for name in os.environ if name.startswith("OMP_P")]}
import torch
torch.ones(4_000_000).sin_()  # in parallel
number, yielding = len(tasks()), Yielding()
states["alone"] = told()
states["free"] = sorted(os.sched_getaffinity(0))
child = "import os; print(*sorted(os.sched_getaffinity(0)))"
states["child"] = subprocess.check_output([sys.executable, "-c", child], text=True).split()
if "yield" in sys.argv:
    states["made way"] = []
    def judge(*shares):
        yielding.judge(*shares)
        states["made way"].append(yielding.makes_way)
    judge(0.05, 0.05)
    judge(0.7, 0.6)  # where no core is free
    judge(0.4, 0.3)
    wait_for_threads(2 * number)
    states["beside"] = told()
    for share in (0.0, 0.05, 0.0, 0.0): judge(share, share)
    wait_for_threads(number)
    states["again"] = told()
    judge(0.4, 0.3)
    judge(0.5, 0.4)
print(json.dumps(states))
"""
many = pytest.mark.skipif(len(CORES) == 1, reason="a single core")


def told(*arguments: str, **environment: str) -> dict[str, Any]:
    kept = {name: value for name, value in os.environ.items() if name not in (*USERS_OWN_BINDING, "OMP_NUM_THREADS")}
    command, variables = [sys.executable, "-c", TOLD, *arguments], {**kept, **POLICY, **environment}
    states: dict[str, Any] = json.loads(subprocess.check_output(command, cwd=ROOT, env=variables, text=True))
    return states


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


@many
def test_each_thread_keeps_its_core_makes_way_and_returns_and_no_bit_changes() -> None:
    """The main thread keeps it only while it computes. Making way all go anywhere and sleep at each section's end."""
    states = told("yield")
    alone, beside, again = states["alone"], states["beside"], states["again"]
    assert states["bound"]
    assert states["environment"] == []
    bound = [cores for cores in alone["others"] if cores != CORES]
    assert sorted(core for cores in [alone["main"], *bound] for core in cores) == CORES
    assert states["free"] == CORES
    assert states["child"] == [str(core) for core in CORES]
    assert states["made way"] == [False, False, True, True, True, True, False, True, False]
    assert beside["main"] == CORES
    # Those that only sleep are OpenMP's, which binds them.
    assert sum(cores == CORES for cores in beside["others"]) >= len(CORES) - 1
    assert sum(slept > 200 for slept in beside["slept"]) >= len(CORES) - 1
    assert (again["main"], again["others"]) == (alone["main"], alone["others"])
    assert alone["bits"] == beside["bits"] == again["bits"]


@many
@pytest.mark.parametrize(
    "environment", [{"OMP_NUM_THREADS": "1"}, {"OMP_NUM_THREADS": str(len(CORES) + 1)}, {"OMP_PROC_BIND": "false"}]
)
def test_other_numbers_of_threads_and_those_the_user_has_bound_stay_as_they_are(environment: dict[str, str]) -> None:
    """Two trainings by fewer threads than cores would be bound to the same."""
    states = told(**environment)
    assert not states["bound"]
    assert all(cores == CORES for cores in [states["alone"]["main"], *states["alone"]["others"]])
    assert states["environment"] == [name for name in environment if name == "OMP_PROC_BIND"]
