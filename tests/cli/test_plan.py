"""wrn-pipe plan, run as a user would, in a copy of this repository's params.yaml."""

import re
import shutil
from pathlib import Path

import pytest
from made_up_runs import result
from project import ROOT, Project, WrnPipe, refused, told

from pipeline.comparison.cells import Comparison, comparable_runs
from pipeline.comparison.results import Result
from pipeline.comparison.training_cost import training_cost
from pipeline.params import Plan
from pipeline.publication.wide_resnet import PAPER
from pipeline.runner.dag import read_dag
from pipeline.runner.dvc import resolve
from pipeline.runner.params_file import load
from pipeline.runner.plan_edit import extend, groups_of

ONE = ("plan", "--paper-table", "4", "--row", "WRN-16-8", "--dataset", "cifar100")
"""A single cell: on a dataset and by a protocol that params.yaml lacks."""
QUICK = ("plan", "--paper-table", "4", "--row", "WRN-40-1", "--dataset", "cifar10", "--protocol", "quick")
MEANSTD = ("plan", "--paper-table", "5", "--row", "WRN-40-4")


@pytest.fixture(autouse=True)
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Project:
    """No more of this repository than planning reads; the working directory is in it."""
    for name in ("params.yaml", "dvc.yaml"):
        shutil.copyfile(ROOT / name, tmp_path / name)
    monkeypatch.chdir(tmp_path)
    return Project(tmp_path)


def text() -> str:
    return Path("params.yaml").read_bytes().decode()


def finished(plan: Plan, run_id: str) -> Result:
    """What the pipeline would record of a run that went as planned."""
    run = plan.runs[run_id]
    facts = {"dataset": run.dataset, "representation": run.representation, "network": run.network, "seed": run.seed}
    return result(0, run=run_id, protocol=plan.protocols[run.protocol], top5_error=0.0, **facts)


def test_a_cost_follows_from_the_multiply_adds_and_a_rate() -> None:
    """In fp32: 450 images a second on two cores; on a GPU 5e12 multiply-adds, thrice those of a forward pass."""
    cost = training_cost("WRN-40-1", 50_000, PAPER.protocols["paper-zca"].protocol)
    assert cost.cpu_hours == pytest.approx(200 * 50_000 / 450 / 3600)
    assert cost.gpu_hours == pytest.approx(200 * 50_000 * 3 * 83_280_512 / 5e12 / 3600)


def test_all_gives_every_claim_of_the_paper_five_comparable_runs() -> None:
    groups, _ = groups_of(PAPER, PAPER.claims, load(), None)
    plan = extend(PAPER, text(), groups, PAPER.table_names("all"), 5).plan
    of = Comparison(PAPER, plan, [finished(plan, run_id) for run_id in plan.runs])
    trainable = [claim for claim in PAPER.claims if PAPER.protocol_of(claim)]
    assert {claim.table for claim in trainable} == set("23456789") | {"text"} <= set(plan.tables)
    assert len(trainable) == 73
    for claim in trainable:
        seeds = {run.result.record.seed for run in comparable_runs(claim, of)}
        assert seeds == {1, 2, 3, 4, 5}, claim.id
    # 60 networks, datasets and protocols: those that two tables print are trained once.
    assert len(plan.runs) == 1 + 60 * 5
    assert not any("." in run_id for run_id in plan.runs), "DVC takes a dot for a step into the mapping"


def test_one_cell_with_what_it_needs(wrn_pipe: WrnPipe) -> None:
    before = text()
    shown = told(wrn_pipe(*ONE, "--seeds", "2", "--yes"))
    after, plan = text(), load()
    old = load(ROOT / "params.yaml")
    assert list(plan.runs) == [*old.runs, "cifar100-wrn-16-8-paper-zca-s1", "cifar100-wrn-16-8-paper-zca-s2"]
    assert (list(plan.datasets), list(plan.tables)) == (["cifar10", "cifar100"], ["4"])
    assert list(plan.representations) == ["cifar10-rgb", "cifar100-zca"]
    assert list(plan.protocols) == [*old.protocols, "paper-zca"]
    assert plan.protocols["paper-zca"] == PAPER.protocols["paper-zca"].protocol

    # Comments and order stay: every old line is there, in the old order.
    rest = iter(after.splitlines())
    assert all(line in rest for line in before.splitlines())
    # The difference that was shown is the one that was made.
    added = [line[1:] for line in shown.splitlines() if re.match(r"\+(?!\+\+)", line)]
    assert len(added) == len(after.splitlines()) - len(before.splitlines())
    assert "  cifar100-wrn-16-8-paper-zca-s2: {" in "\n".join(added)

    group = after[after.index("# WRN-16-8 on CIFAR-100 by paper-zca.") :]
    assert "Expected top-1 error: 22.07 % (Table 4, number of runs not stated)" in group
    assert re.search(r": [0-9.]+ GPU-hours or [0-9,.]+ hours on 2 CPU cores, estimated", group)
    pattern = re.search(r"wrn-pipe repro '(.*)'", group)[1]
    resolved = resolve(plan, [pattern], read_dag(plan))
    assert resolved == [f"evaluate@cifar100-wrn-16-8-paper-zca-s{seed}" for seed in (1, 2)]


def test_it_tells_the_power_of_orderings_whose_networks_are_planned(project: Project, wrn_pipe: WrnPipe) -> None:
    ordering = "WRN-40-4, WRN-16-8 and WRN-28-10 are better than the thin ResNet-1001"
    said = " ".join(told(wrn_pipe("plan", "--paper-table", "5", "--seeds", "5", "--dry-run")).split())
    assert re.search(rf"{ordering} on CIFAR-10 and CIFAR-100\. They show it in [5-9]\d of 100", said)
    one = wrn_pipe("plan", "--paper-table", "5", "--row", "WRN-16-8", "--seeds", "5", "--dry-run")
    assert ordering not in told(one)


def test_more_seeds_join_their_group(wrn_pipe: WrnPipe) -> None:
    assert "Fewer than 3 seeds of a network are not judged" in told(wrn_pipe(*ONE, "--seeds", "1", "--yes"))
    told(wrn_pipe("plan", "--paper-table", "4", "--row", "WRN-16-10", "--dataset", "cifar100", "--seeds", "1", "--yes"))
    shown = told(wrn_pipe(*ONE, "--seeds", "3", "--yes"))
    assert "Adds 2 runs (1 more is there already)" in shown
    assert re.search(r"holds, 3 seeds say reproduced in \d+ of 100 cases; where it is one margin off", shown)
    ids = [run_id for run_id in load().runs if run_id.startswith("cifar100")]
    assert ids == [*(f"cifar100-wrn-16-8-paper-zca-s{seed}" for seed in (1, 2, 3)), "cifar100-wrn-16-10-paper-zca-s1"]
    assert text().count("# WRN-16-8 on CIFAR-100 by paper-zca.") == 1


def test_a_run_counts_whatever_its_id(project: Project, wrn_pipe: WrnPipe) -> None:
    mine = {"seed": 2, "network": "WRN-40-1-B(3,3)"}
    project.edit(lambda params: params["runs"].update(mine={**params["runs"]["cifar10-wrn-40-1-quick-s1"], **mine}))
    assert "Nothing to add: params.yaml or evidence/ has 2 runs" in told(wrn_pipe(*QUICK, "--seeds", "2", "--yes"))
    shown = told(wrn_pipe(*QUICK, "--seeds", "3", "--yes"))
    assert "Cost of each: below 0.01 GPU-hours or 0.01 hours on 2 CPU cores, estimated" in shown
    assert "They say nothing about the paper's numbers, which were measured by another protocol." in shown
    assert "cifar10-wrn-40-1-quick-s3" in load().runs
    said = "The paper's top-1 error by paper-zca: 6.85 % (Table 4, number of runs not stated); expect another."
    assert said in text()


def test_no_seed_of_evidence_is_planned_again(wrn_pipe: WrnPipe) -> None:
    run = "evidence/cifar10-wrn-40-1-paper-zca-bf16-s1"
    shutil.copytree(ROOT / run, run)
    row = ("plan", "--paper-table", "4", "--row", "WRN-40-1", "--dataset", "cifar10", "--yes")
    assert "Nothing to add: params.yaml or evidence/ has 1 run of" in told(wrn_pipe(*row, "--seeds", "1"))
    assert "Adds 2 runs (1 more is" in told(wrn_pipe(*row, "--seeds", "3"))
    assert [run.seed for run in load().runs.values() if run.protocol == "paper-zca"] == [2, 3]
    told(wrn_pipe(*row, "--seeds", "1", "--protocol", "fast"))
    assert [run.seed for run in load().runs.values() if run.protocol == "fast"] == [1]


def test_quick_leaves_imagenet_out_and_says_so(wrn_pipe: WrnPipe) -> None:
    shown = told(wrn_pipe("plan", "--paper-table", "9", "--protocol", "quick", "--seeds", "1", "--dry-run"))
    assert "2 on imagenet, whose images vary in size: quick is not made for them" in shown
    assert "1 on COCO, which has no recipe" in shown
    assert "cifar100-wrn-40-10-dropout-quick-s1" in shown
    assert "imagenet-jpeg" not in shown


@pytest.mark.parametrize(
    ("before", "after", "named", "words", "said"),
    [
        ("label_smoothing: 0.0", "label_smoothing: 0.1", "label_", MEANSTD, "label_smoothing is 0.1, the paper's is 0"),
        ("[59, 119, 159]", "[60, 120, 160]", "schedule: ", MEANSTD, r"schedule is .*drop_after: \[60, 120, 160\]"),
        ("seed: 1", "seed: 7", "cifar10-wrn-40-1-quick-s1:", QUICK, "runs.cifar10-wrn-40-1-quick-s1 is another run"),
    ],
)  # fmt: skip
def test_another_protocol_or_run_of_that_name_is_refused(
    wrn_pipe: WrnPipe, before: str, after: str, named: str, words: tuple[str, ...], said: str
) -> None:
    edited = text().replace(before, after)
    assert edited != text()
    Path("params.yaml").write_text(edited)
    shown = refused(wrn_pipe(*words, "--yes"))
    line = 1 + edited.count("\n", 0, edited.index(named, edited.index("  paper-meanstd:")))
    assert re.search(rf"params.yaml:{line}: .*{said}", shown), shown
    assert text() == edited


@pytest.mark.parametrize(("flags", "said"), [((), "Add --yes"), (("--dry-run",), "(--dry-run)")])
def test_without_a_yes_nothing_is_written(wrn_pipe: WrnPipe, flags: tuple[str, ...], said: str) -> None:
    before = text()
    shown = told(wrn_pipe(*ONE, *flags))
    assert "+  cifar100-wrn-16-8-paper-zca-s5: {" in shown
    assert "params.yaml is unchanged" in shown.splitlines()[-1]
    assert said in shown.splitlines()[-1]
    assert text() == before


def test_a_file_that_cannot_be_written_is_named(project: Project, wrn_pipe: WrnPipe) -> None:
    (project.root / ".params.yaml.part").mkdir()  # in the way of what is written aside
    before = text()
    said = refused(wrn_pipe(*ONE, "--yes"))
    assert said == "error: cannot write params.yaml: Is a directory\n  fix: make that place writable\n"
    assert text() == before


@pytest.mark.parametrize("answer", [True, False])
def test_a_terminal_is_asked_once(wrn_pipe: WrnPipe, monkeypatch: pytest.MonkeyPatch, answer: bool) -> None:
    asked: list[str] = []
    monkeypatch.setattr("sys.stdin.isatty", lambda: True)
    monkeypatch.setattr("sys.stdout.isatty", lambda: True)
    monkeypatch.setattr("typer.confirm", lambda question: asked.append(question) or answer)
    before = text()
    shown = told(wrn_pipe(*ONE, "--seeds", "1"))
    assert asked == ["Write this to params.yaml?"]
    assert "+  cifar100-wrn-16-8-paper-zca-s1: {" in shown
    assert (text() == before) is (not answer)
    assert ("params.yaml is unchanged." in shown) is (not answer)
