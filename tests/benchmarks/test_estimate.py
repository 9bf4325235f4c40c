"""`wrn-pipe estimate`: which runs it counts, and what follows from the measured rate."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from pipeline.benchmarks.measuring import ask, process, say_if_busy
from pipeline.benchmarks.plan_estimate import Estimate, caveats, disk, estimate, probed, sums, tables_of
from pipeline.benchmarks.train_bench import default, training_rate
from pipeline.cli.main import main
from pipeline.errors import UserError, WrnPipeError
from pipeline.models.names import parse
from pipeline.models.param_count import parameters
from pipeline.params import Run
from pipeline.runner.params_file import load

ROOT = Path(__file__).resolve().parents[2]
RUN = "cifar10-wrn-40-1-quick-s1"


@pytest.mark.soak
def test_hours_follow_from_the_rate_and_a_finished_run_is_known(tmp_path: Path) -> None:
    shutil.copyfile(ROOT / "params.yaml", tmp_path / "params.yaml")
    (tmp_path / "evaluations" / RUN).mkdir(parents=True)
    (tmp_path / "evaluations" / RUN / "metrics.json").write_text("{}")
    code = f"import sys; sys.path.insert(0, {str(ROOT)!r}); from pipeline.cli.main import main; main()"
    done = subprocess.run(
        [sys.executable, "-c", code, "estimate", "--json"], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout)
    (run,) = result["runs"]
    assert (run["run"], run["done"]) == (RUN, True)
    # A look at the test split after each epoch, and the evaluation.
    epochs = load(ROOT / "params.yaml").protocols["quick"].epochs
    images = epochs * 50_000 + (epochs + 1) * 10_000 / 3
    assert run["hours"] == pytest.approx(images / run["images_per_s"] / 3600)
    assert run["megabytes"] == pytest.approx(4e-6 * parameters(parse("WRN-40-1"), 10))
    assert [part["table"] for part in result["sums"]] == ["4", "all"]
    assert {part["hours"] for part in result["sums"]} == {run["hours"]}
    assert {part["hours_left"] for part in result["sums"]} == {0}
    assert run["caveats"] == []


@pytest.mark.soak
def test_several_processes_are_no_ordinary_probe_and_the_table_says_what_the_hours_are_of(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    text = (ROOT / "params.yaml").read_text().replace("network: WRN-40-1", "network: WRN-10-1")
    shared = "  quick:\n    processes: 2\n    batch_norm: synchronised"
    (tmp_path / "params.yaml").write_text(text.replace("  quick:", shared))
    monkeypatch.chdir(tmp_path)
    assert load().protocols["quick"].processes == 2
    monkeypatch.setattr(sys, "argv", ["wrn-pipe", "estimate"])
    with pytest.raises(SystemExit) as ended:
        main()
    assert not ended.value.code
    assert "\n1: 2 processes train it; the hours are of one that trains it alone\n" in capsys.readouterr().out


def test_a_gpu_is_probed_with_the_protocols_batch_and_a_cpu_with_what_takes_seconds() -> None:
    plan = load()
    cifar, quick = plan.datasets["cifar10"], plan.protocols["quick"]
    for network, on_cpu in (("WRN-40-1", 128), ("WRN-28-10", 22)):
        probe = (parse(network), cifar, quick)
        assert probed(*probe, torch.device("cpu")) == (on_cpu, 32)
        assert probed(*probe, torch.device("cuda:0")) == (128, 32)


def test_what_is_not_in_the_hours_is_said_of_each_run() -> None:
    plan = load()
    run, quick = plan.runs[RUN], plan.protocols["quick"]
    assert caveats(run, quick) == ()
    several = quick.model_copy(update={"processes": 4})
    both = caveats(run.model_copy(update={"representation": "jpeg"}), several)
    assert [caveat.split("; ")[0] for caveat in both] == ["4 processes train it", "it reads JPEGs"]


@pytest.mark.soak
def test_synchronised_networks_are_probed_as_such_and_need_no_compiler(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By torch's own operations: the probe of another protocol says that there is no g++."""
    pytest.importorskip("pipeline.kernels.apply")
    monkeypatch.setenv("PATH", str(tmp_path))
    plan = load()
    synchronised = plan.protocols["quick"].model_copy(update={"batch_norm": "synchronised"})
    run = plan.runs[RUN].model_copy(update={"network": "WRN-10-1"})
    plan = plan.model_copy(
        update={
            "kernels": "compiled",
            "protocols": {**plan.protocols, "synchronised": synchronised},
            "runs": {"a": run.model_copy(update={"protocol": "synchronised"}), "b": run},
        }
    )
    said: list[str] = []
    with pytest.raises(UserError, match=r"g\+\+ not found") as error:
        estimate(plan, ["a", "b"], said.append)
    assert len(said) == 2
    assert "kernels: torch" in error.value.remedy


@pytest.mark.soak
def test_a_probe_that_can_not_be_compiled_fails_in_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With a g++ that knows its version and nothing else."""
    pytest.importorskip("pipeline.kernels.apply")
    broken = tmp_path / "g++"
    broken.write_text('#!/bin/sh\n[ "$1" = --version ] && echo g++ 0.1 && exit\necho error: worn out >&2\nexit 1\n')
    broken.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path / "cache"))
    with process(prepared=True) as child, pytest.raises(WrnPipeError, match=r"torch\.compile failed: .*worn out"):
        ask(child, training_rate, "WRN-10-1", 8, 32, default(False, kernels="compiled"))


def test_tables_are_summed_and_a_run_of_two_counts_once_in_all() -> None:
    plan = load()
    runs = {"a": plan.runs[RUN], "b": plan.runs[RUN].model_copy(update={"network": "WRN-40-4"})}
    plan = plan.model_copy(update={"runs": runs})
    made = [
        Estimate(name, run.network, tables, 100.0, hours, 2.0, 12.0, done, ())
        for (name, run), tables, hours, done in zip(
            runs.items(), (("4",), ("4", "5")), (1.0, 10.0), (True, False), strict=True
        )
    ]
    assert [(part.table, part.runs, part.done, part.hours, part.hours_left) for part in sums(made)] == [
        ("4", 2, 1, 11.0, 10.0),
        ("5", 1, 0, 10.0, 10.0),
        ("all", 2, 1, 11.0, 10.0),
    ]
    space = disk(plan, made)
    assert space.raw == space.beton == pytest.approx(60_000 * (32 * 32 * 3 + 8) / 1e6)
    assert space.dvc_copy == pytest.approx(space.raw + space.beton + 4)
    assert space.checkpoints == 12


@pytest.mark.parametrize(
    ("network", "dataset", "protocol", "tables"),
    [
        ("WRN-40-1", "cifar10", "quick", ("4",)),
        ("WRN-40-1", "cifar10", "paper-zca", ("4",)),
        ("WRN-40-1", "cifar10", "paper-meanstd", ()),
        ("WRN-16-1", "cifar10", "quick", ()),
    ],
)
def test_a_run_stands_in_the_tables_that_its_protocol_answers(
    network: str, dataset: str, protocol: str, tables: tuple[str, ...]
) -> None:
    run = Run(dataset=dataset, representation="rgb", network=network, protocol=protocol, seed=1)
    assert tables_of(run) == tables


@pytest.mark.parametrize("table", ["1", "40"])
def test_a_table_without_trainings_is_a_mistake(
    table: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(ROOT)
    monkeypatch.setattr(sys, "argv", ["wrn-pipe", "estimate", "--paper-table", table])
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == 2
    assert "table" in capsys.readouterr().err


def test_a_busy_machine_is_said(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr("os.sched_getaffinity", lambda _: set(range(4)))
    for busy, said in ((0.3, ""), (3.84, "others were at work here in the last minute (load 3.8 on 4 cores)")):
        monkeypatch.setattr("os.getloadavg", lambda busy=busy: (busy, 0.0, 0.0))
        say_if_busy()
        assert capsys.readouterr().err.partition(":")[0].strip() == said
