"""wrn-pipe plan, run as a user would, in a copy of this repository's params.yaml."""

import re
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest
from made_up_runs import result
from project import ROOT, Project, copy_repository

from pipeline.cli.main import main
from pipeline.comparison.cells import Comparison, comparable_runs
from pipeline.comparison.results import Result
from pipeline.params import Plan
from pipeline.publication.wide_resnet import PAPER
from pipeline.runner.dag import read_dag
from pipeline.runner.dvc import resolve
from pipeline.runner.params_file import load, parse_plan
from pipeline.runner.plan_edit import Addition, extend, groups_of

ONE = ("plan", "--paper-table", "4", "--row", "WRN-16-8", "--dataset", "cifar100")
"""A single cell: on a dataset and by a protocol that params.yaml lacks."""


@pytest.fixture
def project(tmp_path: Path) -> Project:
    return copy_repository(tmp_path, "params.yaml", "dvc.lock")


Cli = Callable[..., "Done"]


@dataclass(frozen=True)
class Done:
    returncode: int
    stdout: str
    stderr: str


@pytest.fixture
def cli(project: Project, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Cli:
    """Run wrn-pipe in this process, in the project: importing torch again for each command would take the most time."""
    monkeypatch.chdir(project.root)

    def run(*arguments: str) -> Done:
        monkeypatch.setattr(sys, "argv", ["wrn-pipe", *arguments])
        capsys.readouterr()
        with pytest.raises(SystemExit) as ended:
            main()
        return Done(int(ended.value.code or 0), *capsys.readouterr())

    return run


@pytest.fixture(scope="module")
def planned_all() -> Addition:
    """What `wrn-pipe plan --paper-table all --seeds 5` makes of this repository's params.yaml."""
    text = (ROOT / "params.yaml").read_text()
    groups, _ = groups_of(PAPER, PAPER.claims, parse_plan(text), None)
    return extend(PAPER, text, groups, PAPER.table_names("all"), 5)


def text_of(project: Project) -> str:
    return (project.root / "params.yaml").read_bytes().decode()


def plan_of(project: Project) -> Plan:
    return load(project.root / "params.yaml")


def finished(plan: Plan, run_id: str) -> Result:
    """What the pipeline would record of a run that went as planned."""
    run = plan.runs[run_id]
    facts = {"dataset": run.dataset, "representation": run.representation, "network": run.network, "seed": run.seed}
    return result(0, run=run_id, protocol=plan.protocols[run.protocol], top5_error=0.0, **facts)


def test_all_gives_every_claim_of_the_paper_five_comparable_runs(planned_all: Addition) -> None:
    plan = planned_all.plan
    results = [finished(plan, run_id) for run_id in plan.runs]
    of = Comparison(PAPER, plan, results)
    trainable = [claim for claim in PAPER.claims if PAPER.protocol_of(claim)]
    assert {claim.table for claim in trainable} == set("23456789") | {"text"} <= set(plan.tables)
    assert len(trainable) == 73
    for claim in trainable:
        seeds = {run.result.record.seed for run in comparable_runs(claim, of)}
        assert seeds == {1, 2, 3, 4, 5}, claim.id
    # 60 networks, datasets and protocols: those that two tables print are trained once.
    assert len(plan.runs) == 1 + 60 * 5
    assert not any("." in run_id for run_id in plan.runs), "DVC takes a dot for a step into the mapping"


def test_one_cell_with_what_it_needs(project: Project, cli: Cli) -> None:
    before = text_of(project)
    done = cli(*ONE, "--seeds", "2", "--yes")
    assert (done.returncode, done.stderr) == (0, "")
    after, plan = text_of(project), plan_of(project)
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
    added = [line[1:] for line in done.stdout.splitlines() if re.match(r"\+(?!\+\+)", line)]
    assert len(added) == len(after.splitlines()) - len(before.splitlines())
    assert "  cifar100-wrn-16-8-paper-zca-s2: {" in "\n".join(added)

    group = after[after.index("# WRN-16-8 on CIFAR-100 by paper-zca.") :]
    assert "Expected top-1 error: 22.07 % (Table 4, number of runs not stated)" in group
    assert re.search(r": [0-9.]+ GPU-hours or [0-9,.]+ hours on 2 CPU cores, estimated", group)
    pattern = re.search(r"wrn-pipe repro '(.*)'", group)[1]
    resolved = resolve(plan, [pattern], read_dag(plan))
    assert resolved == [f"evaluate@cifar100-wrn-16-8-paper-zca-s{seed}" for seed in (1, 2)]


QUICK = ("plan", "--paper-table", "4", "--row", "WRN-40-1", "--dataset", "cifar10", "--protocol", "quick")


def test_a_cost_that_is_hardly_any_is_said_in_plain_words(cli: Cli) -> None:
    done = cli(*QUICK)
    assert done.returncode == 0, done.stderr
    assert "Cost of each: below 0.01 GPU-hours or 0.01 hours on 2 CPU cores, estimated" in done.stdout
    assert "They say nothing about the paper's numbers, which were measured by another protocol." in done.stdout


def test_it_tells_the_power_of_orderings_whose_networks_are_planned(project: Project, cli: Cli) -> None:
    told = "WRN-40-4, WRN-16-8 and WRN-28-10 are better than the thin ResNet-1001"
    done = cli("plan", "--paper-table", "5", "--seeds", "5", "--dry-run")
    said = " ".join(done.stdout.split())
    assert re.search(rf"{told} on CIFAR-10 and CIFAR-100\. They show it in [5-9]\d of 100", said)
    one = cli("plan", "--paper-table", "5", "--row", "WRN-16-8", "--seeds", "5", "--dry-run")
    assert told not in one.stdout


def test_more_seeds_join_their_group(project: Project, cli: Cli) -> None:
    once = cli(*ONE, "--seeds", "1", "--yes")
    assert once.returncode == 0
    assert "Fewer than 3 seeds of a network are not judged" in once.stdout
    other = cli("plan", "--paper-table", "4", "--row", "WRN-16-10", "--dataset", "cifar100", "--seeds", "1", "--yes")
    assert other.returncode == 0
    done = cli(*ONE, "--seeds", "3", "--yes")
    assert "Adds 2 runs (1 more are there already)" in done.stdout
    assert re.search(r"holds, 3 seeds say reproduced in \d+ of 100 cases; where it is one margin off", done.stdout)
    ids = [run_id for run_id in plan_of(project).runs if run_id.startswith("cifar100")]
    assert ids == [*(f"cifar100-wrn-16-8-paper-zca-s{seed}" for seed in (1, 2, 3)), "cifar100-wrn-16-10-paper-zca-s1"]
    assert text_of(project).count("# WRN-16-8 on CIFAR-100 by paper-zca.") == 1


def test_a_run_counts_whatever_its_id(project: Project, cli: Cli) -> None:
    project.edit(
        lambda params: params["runs"].update(
            mine={**params["runs"]["cifar10-wrn-40-1-quick-s1"], "seed": 2, "network": "WRN-40-1-B(3,3)"}
        )
    )
    done = cli(*QUICK, "--seeds", "2", "--yes")
    assert "has all 2 runs already" in done.stdout, done.stdout + done.stderr
    cli(*QUICK, "--seeds", "3", "--yes")
    assert "cifar10-wrn-40-1-quick-s3" in plan_of(project).runs
    said = "The paper's top-1 error by paper-zca: 6.85 % (Table 4, number of runs not stated); expect another."
    assert said in text_of(project)


def test_quick_leaves_imagenet_out_and_says_so(project: Project, cli: Cli) -> None:
    done = cli("plan", "--paper-table", "9", "--protocol", "quick", "--seeds", "1", "--dry-run")
    assert done.returncode == 0, done.stderr
    assert "2 on imagenet, whose images vary in size: quick is not made for them" in done.stdout
    assert "1 COCO detection (another system)" in done.stdout
    assert "cifar100-wrn-40-10-dropout-quick-s1" in done.stdout
    assert "imagenet-jpeg" not in done.stdout


@pytest.mark.parametrize(
    ("arguments", "what", "remedy"),
    [
        (("--paper-table", "4", "--row", "WRN-40-3"), "no row 'WRN-40-3'", "WRN-40-"),
        (("--paper-table", "4", "--dataset", "cifar1000"), "no dataset 'cifar1000'", "cifar100?"),
        (("--paper-table", "44"), "no table '44'", "4"),
        (("--paper-table", "4", "--protocol", "quik"), "no protocol 'quik'", "quick?"),
        (("--paper-table", "figure-4"), "nothing to train for these numbers: 5 timings", "choose a table"),
        (("--paper-table", "5", "--row", "NIN"), "2 quoted from other papers", "choose a table"),
        (("--paper-table", "9", "--dataset", "coco"), "1 COCO detection (another system)", "choose a table"),
        (("--paper-table", "4", "--yes", "--dry-run"), "--yes writes and --dry-run does not", "leave one"),
    ],
)  # fmt: skip
def test_mistakes(project: Project, cli: Cli, arguments: tuple[str, ...], what: str, remedy: str) -> None:
    before = text_of(project)
    done = cli("plan", *arguments)
    assert (done.returncode, done.stdout) == (2, "")
    first, second = done.stderr.splitlines()
    assert what in first
    assert remedy in second
    assert text_of(project) == before


@pytest.mark.parametrize(
    ("before", "after", "field", "values"),
    [
        ("    label_smoothing: 0.0\n", "    label_smoothing: 0.1\n", "label_smoothing", "is 0.1, the paper's is 0.0"),
        ("drop_after: [59, 119, 159]", "drop_after: [60, 120, 160]", "schedule", r"drop_after: \[60, 120, 160\]"),
    ],
)  # fmt: skip
def test_another_protocol_of_the_papers_name_is_refused(
    project: Project, cli: Cli, before, after, field, values
) -> None:
    text = text_of(project)
    assert before in text
    edited = text.replace(before, after)
    (project.root / "params.yaml").write_text(edited)
    done = cli("plan", "--paper-table", "5", "--row", "WRN-40-4", "--yes")
    place = edited.index(after.strip(), edited.index("  paper-meanstd:"))
    line = 1 + edited.count("\n", 0, place)
    assert done.returncode == 2
    assert re.search(rf"params.yaml:{line}: protocols.paper-meanstd.{field}.*{values}", done.stderr), done.stderr
    assert text_of(project) == edited


def test_an_id_that_means_another_run_is_refused(project: Project, cli: Cli) -> None:
    project.edit(lambda params: params["runs"]["cifar10-wrn-40-1-quick-s1"].update(seed=7))
    done = cli(*QUICK)
    assert done.returncode == 2
    assert re.search(r"params.yaml:\d+: runs.cifar10-wrn-40-1-quick-s1 is another run", done.stderr)


@pytest.mark.parametrize(("flags", "said"), [((), "Add --yes"), (("--dry-run",), "(--dry-run)")])
def test_without_a_yes_nothing_is_written(project: Project, cli: Cli, flags: tuple[str, ...], said: str) -> None:
    before = text_of(project)
    done = cli(*ONE, *flags)
    assert done.returncode == 0
    assert "+  cifar100-wrn-16-8-paper-zca-s5: {" in done.stdout
    assert "params.yaml is unchanged" in done.stdout.splitlines()[-1]
    assert said in done.stdout.splitlines()[-1]
    assert text_of(project) == before
    assert sorted(path.name for path in project.root.glob(".*.part")) == []


def test_a_file_that_cannot_be_written_is_named(project: Project, cli: Cli) -> None:
    (project.root / ".params.yaml.part").mkdir()  # in the way of what is written aside
    before = text_of(project)
    done = cli(*ONE, "--yes")
    assert (done.returncode, text_of(project)) == (2, before)
    assert done.stderr == "error: cannot write params.yaml: Is a directory\n  fix: fix that; the file is as it was\n"


def test_an_empty_plan_is_filled(project: Project, cli: Cli) -> None:
    project.edit(lambda params: params.update(runs={}))
    assert cli(*ONE, "--seeds", "1", "--yes").returncode == 0
    assert list(plan_of(project).runs) == ["cifar100-wrn-16-8-paper-zca-s1"]
