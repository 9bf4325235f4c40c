"""`wrn-pipe estimate`: which runs it counts, and what follows from the measured rate."""

import json
import os
import sys
from contextlib import nullcontext
from pathlib import Path

import pytest
import torch

from pipeline.benchmarks import plan_estimate
from pipeline.benchmarks.measuring import ask, process, say_if_busy
from pipeline.benchmarks.plan_estimate import Estimate, disk, estimate, probed, sums, tables_of
from pipeline.benchmarks.train_bench import default, training_rate
from pipeline.cli.main import main
from pipeline.errors import UserError, WrnPipeError
from pipeline.models.names import parse
from pipeline.models.param_count import parameters
from pipeline.params import Run
from pipeline.publication.wide_resnet import PAPER
from pipeline.runner.params_file import load

ROOT = Path(__file__).resolve().parents[2]
RUN = "cifar10-wrn-40-1-quick-s1"


def tell(monkeypatch: pytest.MonkeyPatch, *options: str) -> object:
    """Exit code of `wrn-pipe estimate` with these options."""
    monkeypatch.setattr(sys, "argv", ["wrn-pipe", "estimate", *options])
    with pytest.raises(SystemExit) as ended:
        main()
    return ended.value.code


def test_hours_follow_from_the_rate_and_a_finished_run_is_known(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    text = (ROOT / "params.yaml").read_text()
    (tmp_path / "params.yaml").write_text(text)
    (tmp_path / "evaluations" / RUN).mkdir(parents=True)
    (tmp_path / "evaluations" / RUN / "metrics.json").write_text("{}")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(plan_estimate, "process", lambda **_: nullcontext())
    monkeypatch.setattr(plan_estimate, "ask", lambda _, asked, *of, **options: 100.0 if of else asked())
    assert not tell(monkeypatch, "--json")
    result = json.loads(capsys.readouterr().out)
    (run,) = result["runs"]
    assert (run["run"], run["done"], run["images_per_s"], run["caveats"]) == (RUN, True, 100.0, [])
    # A look at the test split after each epoch, and the evaluation.
    epochs = load(ROOT / "params.yaml").protocols["quick"].epochs
    assert run["hours"] == pytest.approx((epochs * 50_000 + (epochs + 1) * 10_000 / 3) / 100 / 3600)
    assert run["megabytes"] == pytest.approx(4e-6 * parameters(parse("WRN-40-1"), 10))
    assert [part["table"] for part in result["sums"]] == ["4", "all"]
    assert {part["hours"] for part in result["sums"]} == {run["hours"]}
    assert {part["hours_left"] for part in result["sums"]} == {0}
    shared = "  quick:\n    processes: 2\n    batch_norm: synchronised"
    (tmp_path / "params.yaml").write_text(text.replace("  quick:", shared))
    assert not tell(monkeypatch)
    assert f"\n{RUN}: 2 processes train it; the hours are of one" in capsys.readouterr().out


def test_a_gpu_is_probed_with_the_protocols_batch_and_a_cpu_with_what_takes_seconds() -> None:
    plan = load()
    cifar, quick = plan.datasets["cifar10"], plan.protocols["quick"]
    for network, on_cpu in (("WRN-40-1", 128), ("WRN-28-10", 22)):
        probe = (parse(network), cifar, quick)
        assert probed(*probe, torch.device("cpu")) == (on_cpu, 32)
        assert probed(*probe, torch.device("cuda:0")) == (128, 32)


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
        estimate(PAPER, plan, ["a", "b"], said.append)
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
        Estimate(name, run.network, tables, 100.0, hours, 2.0, done, ())
        for (name, run), tables, hours, done in zip(
            runs.items(), (("4",), ("4", "5")), (1.0, 10.0), (True, False), strict=True
        )
    ]
    assert [(part.table, part.runs, part.done, part.hours, part.hours_left) for part in sums(PAPER, made)] == [
        ("4", 2, 1, 11.0, 10.0),
        ("5", 1, 0, 10.0, 10.0),
        ("all", 2, 1, 11.0, 10.0),
    ]
    space = disk(plan, made)
    assert space["raw"] == space["beton"] == pytest.approx(60_000 * (32 * 32 * 3 + 8) / 1e6)
    assert space["dvc_copy"] == pytest.approx(space["raw"] + space["beton"] + 4)
    assert space["checkpoints"] == 12


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
    assert tables_of(run, PAPER) == tables


@pytest.mark.parametrize("table", ["1", "40"])
def test_a_table_without_trainings_is_a_mistake(
    table: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(ROOT)
    assert tell(monkeypatch, "--paper-table", table) == 2
    assert "table" in capsys.readouterr().err


def test_a_busy_machine_is_said(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr("os.sched_getaffinity", lambda _: set(range(4)))
    for busy, said in ((0.3, ""), (3.84, "others were at work here in the last minute (load 3.8 on 4 cores)")):
        monkeypatch.setattr("os.getloadavg", lambda busy=busy: (busy, 0.0, 0.0))
        say_if_busy()
        assert capsys.readouterr().err.partition(":")[0].strip() == said
