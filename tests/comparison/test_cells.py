"""Claims meet runs: which runs count, and what happens to the others."""

import itertools
from dataclasses import replace

import pytest
from made_up_runs import five, result

from pipeline.comparison.cells import cell_of, runs_wanted
from pipeline.comparison.statistics import Verdict
from pipeline.comparison.tables import Column, table
from pipeline.errors import UserError
from pipeline.publication.claims import load_claims

CLAIMS = {claim.id: claim for claim in load_claims()}
C10 = Column("cifar10", "top1_error")
NEAR = [540, 548, 541, 545, 543]  # WRN-40-2-B(3,3): the paper prints 5.43, a median of five


def cell(claim_id: str, plan_of, runs):
    return cell_of(CLAIMS[claim_id], plan_of(runs), runs)


def test_five_runs_of_the_papers_protocol(plan_of) -> None:
    found = cell("3/cifar10/WRN-40-2-B(3,3)/top1_error", plan_of, five(NEAR, network="WRN-40-2"))
    assert found.verdict is Verdict.REPRODUCED
    assert found.ours is not None
    assert (found.ours.n, found.ours.median, found.ours.smallest, found.ours.largest) == (5, 5.43, 5.40, 5.48)
    assert found.difference == pytest.approx(0)
    assert found.interval is not None
    assert found.interval[0] == pytest.approx(-found.interval[1])
    assert found.caveats == (1, 2, 8)
    assert runs_wanted(found) is None


@pytest.mark.parametrize(("shift", "verdict"), [(-80, Verdict.BETTER), (80, Verdict.WORSE)])
def test_far_from_the_paper(plan_of, shift, verdict) -> None:
    runs = five([e + shift for e in NEAR], network="WRN-40-2")
    assert cell("3/cifar10/WRN-40-2-B(3,3)/top1_error", plan_of, runs).verdict is verdict


def test_without_runs(plan_of) -> None:
    found = cell("4/cifar10/WRN-16-8/top1_error", plan_of, five(NEAR, network="WRN-40-2"))
    assert (found.verdict, found.ours, found.runs, runs_wanted(found)) == (Verdict.NOT_RUN, None, (), 3)


def test_dataset_and_dropout_keep_runs_apart(plan_of) -> None:
    runs = [*five([400] * 5, network="WRN-28-10-dropout", protocol="paper-meanstd")]
    assert cell("6/cifar10/WRN-28-10/top1_error", plan_of, runs).verdict is Verdict.NOT_RUN
    assert cell("6/cifar100/WRN-28-10-dropout/top1_error", plan_of, runs).verdict is Verdict.NOT_RUN
    assert cell("6/cifar10/WRN-28-10-dropout/top1_error", plan_of, runs).runs != ()


def test_a_material_deviation_is_not_comparable_and_shown(plan_of, brief) -> None:
    found = cell("4/cifar10/WRN-40-1/top1_error", plan_of, [result(1234, protocol=brief)])
    assert found.verdict is Verdict.NOT_COMPARABLE
    assert found.ours is not None
    assert found.ours.median == 12.34
    assert found.interval is None
    assert {d.field for d in found.deviations if d.material} >= {"epochs", "schedule", "preprocessing"}


def test_only_comparable_runs_make_the_verdict(plan_of, brief) -> None:
    good = five(NEAR, network="WRN-40-2")
    alone = cell("3/cifar10/WRN-40-2-B(3,3)/top1_error", plan_of, good)
    mixed = cell(
        "3/cifar10/WRN-40-2-B(3,3)/top1_error",
        plan_of,
        [result(2000, network="WRN-40-2", protocol=brief, seed=9, run="a-quick-one"), *good],
    )
    assert (mixed.verdict, mixed.ours, mixed.runs) == (alone.verdict, alone.ours, alone.runs)
    assert [(e.run, e.error, e.reason) for e in mixed.excluded] == [("a-quick-one", 20.0, "not comparable")]


def test_a_seed_counts_once(plan_of) -> None:
    runs = five(NEAR, network="WRN-40-2")
    copy = result(900, network="WRN-40-2", seed=1, run="z-copy")
    found = cell("3/cifar10/WRN-40-2-B(3,3)/top1_error", plan_of, [*runs, copy])
    assert found.ours is not None
    assert found.ours.n == 5
    assert [e.run for e in found.excluded] == ["z-copy"]


def test_the_order_of_results_does_not_matter(plan_of, brief) -> None:
    runs = [*five(NEAR[:3], network="WRN-40-2"), result(900, network="WRN-40-2", protocol=brief, seed=4)]
    cells = {cell("4/cifar10/WRN-40-2/top1_error", plan_of, list(p)) for p in itertools.permutations(runs)}
    assert len(cells) == 1


def test_counts_are_exact_and_named_when_wrong(base_plan) -> None:
    claim = CLAIMS["4/cifar10/WRN-28-10/params_millions"]
    found = cell_of(claim, base_plan, [])
    assert (found.count, found.verdict) == (36_479_194, Verdict.SAME_COUNT)
    assert cell_of(replace(claim, text="36.6"), base_plan, []).verdict is Verdict.OTHER_COUNT


def test_quoted_and_timed_numbers_are_not_judged(base_plan) -> None:
    for claim in CLAIMS.values():
        if claim.kind in ("quoted", "timing"):
            assert cell_of(claim, base_plan, []).verdict is None


def test_table_4_has_ten_rows_and_one_dash(plan_of) -> None:
    runs = five([2100] * 3, network="WRN-40-8", dataset="cifar100")
    for results in ([], runs):
        found = table(plan_of(results), "4", results)
        assert len(found.models) == 10
        dashes = [c for c in found.cells if c.kind == "unpublished"]
        assert [(c.model, c.dataset) for c in dashes] == [("WRN-40-8", "cifar100")]
        assert dashes[0].verdict is None
        assert (dashes[0].ours is None) is (results == [])


def test_runs_outside_the_plan_are_ignored(plan_of) -> None:
    runs = five(NEAR)
    assert table(plan_of([]), "4", runs).cell("WRN-40-1", C10).verdict is Verdict.NOT_RUN
    assert table(plan_of(runs), "4", runs).cell("WRN-40-1", C10).runs


def test_a_missing_margin_is_the_users_to_give(plan_of) -> None:
    runs = five(NEAR, network="WRN-40-2")
    plan = plan_of(runs)
    plan = plan.model_copy(update={"comparison": plan.comparison.model_copy(update={"margins": {}})})
    with pytest.raises(UserError, match="no margin for cifar10"):
        cell_of(CLAIMS["4/cifar10/WRN-40-2/top1_error"], plan, runs)
