"""One run on many processes, by torchrun and the real commands: stopped, killed, refused, and its images counted."""

import json
import os
import signal
import subprocess
import time
from collections.abc import Callable
from typing import Any

import psutil
import pyarrow.parquet as pq
import pytest
from project import ROOT, RUN, Project, told, wait_for

from pipeline.errors import UserError
from pipeline.params import Plan
from pipeline.runner.params_file import load
from pipeline.training.processes import number_of_processes


def ranks(process: "subprocess.Popen[bytes]") -> list[psutil.Process]:
    """Of a running attempt, in the order of their ranks."""
    found = [p for p in psutil.Process(process.pid).children(recursive=True) if "pipeline.runner.launch" in p.cmdline()]
    return sorted(found, key=lambda p: int(p.environ()["RANK"]))


@pytest.fixture
def runs(project: Project) -> Project:
    """Whose run is trained by two processes."""
    project.set_brief(processes=2, batch_size=52, epochs=12)
    return project


def last_lines(runs: Project) -> list[str]:
    return runs.log.read_text().splitlines()[-2:]


@pytest.mark.soak
def test_a_run_stopped_in_every_way_ends_with_the_same_bytes_and_is_tested_on_every_image(runs: Project) -> None:
    assert runs.train().wait() == 0, runs.log.read_text()
    expected = runs.published()
    (device,) = json.loads(expected[2])["devices"]
    assert device["processes"] == 2
    stopping: list[tuple[Callable[[subprocess.Popen[bytes]], None], int]] = [
        (lambda parent: os.killpg(parent.pid, signal.SIGINT), 130),  # as a terminal does
        (lambda parent: ranks(parent)[1].kill(), 1),
        (lambda parent: parent.terminate(), 143),
        (lambda parent: ranks(parent)[1].terminate(), 143),  # a cluster's, to some or all of them
        (lambda parent: parent.kill(), -signal.SIGKILL),
    ]
    for number, (stop, code) in enumerate(stopping):
        running = runs.train("--checkpoint-steps", "2", *["--fresh"][number:])
        wait_for(" left", runs.log, running)
        members = [psutil.Process(running.pid), *psutil.Process(running.pid).children(recursive=True)]
        stop(running)
        stopped = time.monotonic()
        assert running.wait() == code, runs.log.read_text()
        assert time.monotonic() - stopped < 28, "torchrun waits for 30 s until it kills the others"
        psutil.wait_procs(members, timeout=10)
        assert not any(member.is_running() for member in members), (number, members)
        if code > 0:
            assert last_lines(runs)[1] == f"  fix: continue with: wrn-pipe repro train@{RUN}", number
        if code == 1:
            said = f"error: run {RUN}: process 1 of 2 was killed by SIGKILL, as the system does when memory is short"
            assert last_lines(runs)[0] == said
        if code > 128:
            assert "saved as scratch/" in last_lines(runs)[0]
        assert "Traceback" not in runs.log.read_text()
    assert runs.train().wait() == 0, runs.log.read_text()
    assert runs.published() == expected
    told(runs.cli("stage", "evaluate", RUN, MLFLOW_TRACKING_URI="none://"))
    predictions = pq.read_table(runs.root / "evaluations" / RUN / "predictions.parquet")
    assert predictions.column("index").to_pylist() == list(range(104))


@pytest.mark.soak
def test_what_a_process_says_at_its_end_is_what_the_run_says(runs: Project) -> None:
    """A non-finite loss in all of them, an error of one, and a stop before any has begun."""
    loop = runs.root / "pipeline" / "training" / "loop.py"
    code = loop.read_text()
    loop.write_text(code.replace("optimizer.step()\n", "optimizer.step(); loss = loss * float('nan')\n"))
    assert loop.read_text() != code
    assert runs.train().wait() == 1
    what, remedy = last_lines(runs)
    assert what == f"error: run {RUN}: non-finite loss in epoch 1 at step 1; last good state: none"
    assert remedy.startswith("  fix: lower the learning rate")
    loop.write_text(code.replace("optimizer.step()\n", "optimizer.step(); [0][ranks.rank]\n"))
    assert runs.train().wait() == 1
    assert last_lines(runs)[0] == f"error: run {RUN}: process 1 of 2 failed: IndexError: list index out of range"
    assert runs.log.read_text().count("Traceback") == 1
    loop.write_text(code)
    early = runs.train()
    while not list((runs.root / "scratch").glob("*.owner.json")):
        time.sleep(0.02)
    time.sleep(0.5)
    early.terminate()
    assert early.wait() == 143
    assert "SIGTERM: stopped before or after the training's steps" in last_lines(runs)[0]


@pytest.mark.soak
def test_another_number_of_processes_goes_on_where_normalisation_is_synchronised(runs: Project) -> None:
    # In fp32: torch takes minutes for bf16 where the processor has no instructions for it.
    runs.set_brief(batch_norm="synchronised", precision="fp32")
    first = runs.train("--checkpoint-steps", "2")
    wait_for("epoch 2/12", runs.log, first)
    first.terminate()
    assert first.wait() == 143, runs.log.read_text()
    assert runs.train("--nproc", "1").wait() == 0, runs.log.read_text()
    assert "sums round differently" in runs.log.read_text()
    record = json.loads(runs.published()[2])
    assert [device.get("processes", 1) for device in record["devices"]] == [2, 1]
    assert record["kernels"] == "torch, batch normalisation synchronised"


QUICK = load(ROOT / "params.yaml")
QUICK_RUN = "cifar10-wrn-40-1-quick-s1"


def plan(network: str = "WRN-10-1", **changes: object) -> Plan:
    protocols = {"quick": QUICK.protocols["quick"].model_copy(update=changes)}
    runs = {QUICK_RUN: QUICK.runs[QUICK_RUN].model_copy(update={"network": network})}
    return QUICK.model_copy(update={"protocols": protocols, "runs": runs, "device": "cpu"})


@pytest.mark.parametrize(
    ("asked", "changes", "what", "remedy"),
    [
        (2, {}, "says 1, and each normalises by its own share", "set processes: 2 or batch_norm: synchronised there"),
        (1, {"processes": 4}, "by 1 process: .* says 4", "take 4 processes"),
        (3, {"batch_norm": "synchronised", "network": "WRN-10-1-dropout"}, "dropout masks", "set processes: 3 there"),
        (600, {"batch_norm": "synchronised"}, "a mini-batch has 128 images", "take fewer"),
    ],
)
def test_a_number_that_would_train_something_else_is_refused_and_one_that_only_rounds_otherwise_is_not(
    asked: int, changes: dict[str, Any], what: str, remedy: str
) -> None:
    with pytest.raises(UserError, match=what) as error:
        number_of_processes(plan(**changes), QUICK_RUN, asked)
    assert remedy in error.value.remedy
    assert number_of_processes(plan(processes=4), QUICK_RUN, None) == 4
    assert number_of_processes(plan(processes=4), QUICK_RUN, "auto") == 4  # device: cpu, so no GPU counts
    assert number_of_processes(plan(batch_norm="synchronised"), QUICK_RUN, 3) == 3
