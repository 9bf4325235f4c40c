"""Claims meet runs: which runs count, and what happens to the others."""

import itertools
from dataclasses import replace

import pytest
from made_up_runs import changed, five, result

from pipeline.comparison.cells import cell_of, comparable_runs, planned, runs_wanted
from pipeline.comparison.statistics import Verdict
from pipeline.comparison.tables import Column, table
from pipeline.errors import UserError
from pipeline.publication.wide_resnet import PAPER

CLAIMS = {claim.id: claim for claim in PAPER.claims}
C10 = Column("cifar10", "top1_error")
EARLY = {"kind": "step", "drop_after": (20, 40, 60), "factor": 0.2, "reset_momentum": True}
NEAR = [540, 548, 541, 545, 543]  # WRN-40-2-B(3,3): the paper prints 5.43, a median of five


def cell(claim_id: str, compared, runs):
    return cell_of(CLAIMS[claim_id], compared(runs))


def test_five_runs_of_the_papers_protocol(compared) -> None:
    found = cell("3/cifar10/WRN-40-2-B(3,3)/top1_error", compared, five(NEAR, network="WRN-40-2"))
    assert found.verdict is Verdict.REPRODUCED
    assert found.ours is not None
    assert (found.ours.n, found.ours.median, found.ours.smallest, found.ours.largest) == (5, 5.43, 5.40, 5.48)
    assert found.ours.mean == pytest.approx(5.434)
    assert found.difference == pytest.approx(0.004)
    assert found.interval is not None
    assert sum(found.interval) / 2 == pytest.approx(0.004)
    assert found.caveats == (1, 2, 8)
    assert runs_wanted(found, PAPER) is None


@pytest.mark.parametrize(("shift", "verdict"), [(-80, Verdict.BETTER), (80, Verdict.WORSE)])
def test_far_from_the_paper(compared, shift, verdict) -> None:
    runs = five([e + shift for e in NEAR], network="WRN-40-2")
    assert cell("3/cifar10/WRN-40-2-B(3,3)/top1_error", compared, runs).verdict is verdict


def test_without_runs(compared) -> None:
    found = cell("4/cifar10/WRN-16-8/top1_error", compared, five(NEAR, network="WRN-40-2"))
    assert (found.verdict, found.ours, found.runs, runs_wanted(found, PAPER)) == (Verdict.NOT_RUN, None, (), 3)


def test_dataset_and_dropout_keep_runs_apart(compared) -> None:
    runs = [*five([400] * 5, network="WRN-28-10-dropout", protocol="paper-meanstd")]
    assert cell("6/cifar10/WRN-28-10/top1_error", compared, runs).verdict is Verdict.NOT_RUN
    assert cell("6/cifar100/WRN-28-10-dropout/top1_error", compared, runs).verdict is Verdict.NOT_RUN
    assert cell("6/cifar10/WRN-28-10-dropout/top1_error", compared, runs).runs != ()


def test_a_material_deviation_is_not_comparable_and_shown(compared, brief) -> None:
    found = cell("4/cifar10/WRN-40-1/top1_error", compared, [result(1234, protocol=brief)])
    assert found.verdict is Verdict.NOT_COMPARABLE
    assert found.ours is not None
    assert found.ours.median == 12.34
    assert found.interval is None
    assert {d.field for d in found.deviations if d.material} >= {"epochs", "schedule", "preprocessing"}


def test_only_comparable_runs_make_the_verdict(compared, brief) -> None:
    good = five(NEAR, network="WRN-40-2")
    alone = cell("3/cifar10/WRN-40-2-B(3,3)/top1_error", compared, good)
    mixed = cell(
        "3/cifar10/WRN-40-2-B(3,3)/top1_error",
        compared,
        [result(2000, network="WRN-40-2", protocol=brief, seed=9, run="a-quick-one"), *good],
    )
    assert (mixed.verdict, mixed.ours, mixed.runs) == (alone.verdict, alone.ours, alone.runs)
    assert [(e.run, e.error, e.reason) for e in mixed.excluded] == [("a-quick-one", 20.0, "not comparable")]


def test_a_seed_counts_once(compared) -> None:
    runs = five(NEAR, network="WRN-40-2")
    copy = result(900, network="WRN-40-2", seed=1, run="z-copy")
    found = cell("3/cifar10/WRN-40-2-B(3,3)/top1_error", compared, [*runs, copy])
    assert found.ours is not None
    assert found.ours.n == 5
    assert [e.run for e in found.excluded] == ["z-copy"]


def test_of_two_runs_of_a_seed_the_one_nearest_the_papers_recipe_counts(compared) -> None:
    """Whatever their ids: one in bf16 has a minor deviation more."""
    bf16 = changed("paper-zca", precision="bf16")
    runs = five(NEAR, network="WRN-40-2")
    farther = [result(900, network="WRN-40-2", protocol=bf16, seed=1, run=run) for run in ("a", "z")]
    found = cell("3/cifar10/WRN-40-2-B(3,3)/top1_error", compared, [*farther, *runs])
    assert found.runs == tuple(run.run for run in runs)
    assert [(e.run, e.reason) for e in found.excluded] == [
        ("a", "its seed is counted already"),
        ("z", "its seed is counted already"),
    ]
    claim, all_runs = CLAIMS["3/cifar10/WRN-40-2-B(3,3)/top1_error"], [*farther, *runs]
    counted = comparable_runs(claim, compared(all_runs))
    assert [(run.run, error) for run, error in counted] == [(r.run, pytest.approx(r.top1_error)) for r in runs]


def test_a_seed_whose_nearest_run_is_not_comparable_counts_by_its_other_run(compared, brief) -> None:
    """What is left out for its protocol does not take the place of the seed."""
    runs = [result(900, network="WRN-40-2", protocol=brief, run="a", seed=1), *five(NEAR, network="WRN-40-2")]
    found = cell("3/cifar10/WRN-40-2-B(3,3)/top1_error", compared, runs)
    assert found.runs == tuple(run.run for run in runs[1:])
    assert [(e.run, e.reason) for e in found.excluded] == [("a", "not comparable")]
    claim = CLAIMS["3/cifar10/WRN-40-2-B(3,3)/top1_error"]
    assert [run.run for run, _ in comparable_runs(claim, compared(runs))] == list(found.runs)


def test_of_several_recipes_that_are_not_the_papers_the_nearest_is_shown(compared, brief) -> None:
    """Even if another one, with more deviations, has more runs."""
    longer = changed("paper-zca", epochs=300)
    runs = [
        *five([1200, 1210, 1220], network="WRN-40-2", protocol=brief),
        result(530, run="z", network="WRN-40-2", protocol=longer, seed=9),
    ]
    found = cell("4/cifar10/WRN-40-2/top1_error", compared, runs)
    assert (found.verdict, found.runs) == (Verdict.NOT_COMPARABLE, ("z",))
    assert {(e.run, e.reason) for e in found.excluded} == {(run.run, "another protocol") for run in runs[:3]}


@pytest.mark.parametrize("epochs", [(300, 100), (100, 300)])
def test_of_recipes_as_near_the_one_with_most_runs_is_shown(compared, epochs) -> None:
    many, one = (changed("paper-zca", epochs=count, schedule=EARLY) for count in epochs)
    runs = [
        *five([1200, 1210, 1220], network="WRN-40-2", protocol=many),
        result(530, run="a", network="WRN-40-2", protocol=one, seed=9),
        result(531, run="b", network="WRN-40-2", protocol=one, seed=1),
    ]
    found = cell("4/cifar10/WRN-40-2/top1_error", compared, runs)
    assert found.ours is not None
    assert (found.ours.n, found.ours.median) == (3, 12.1)
    assert found.runs == tuple(run.run for run in runs[:3])
    assert {e.run for e in found.excluded} == {"a", "b"}


def test_a_seed_counts_once_among_runs_that_are_not_comparable(compared, brief) -> None:
    runs = [*five([1200, 1210], protocol=brief), result(9000, protocol=brief, seed=2, run="z-copy")]
    found = cell("4/cifar10/WRN-40-1/top1_error", compared, runs)
    assert found.runs == ("cifar10-wrn-40-1-s1", "cifar10-wrn-40-1-s2")
    assert [(e.run, e.reason) for e in found.excluded] == [("z-copy", "its seed is counted already")]


def test_material_deviations_of_a_cell_come_first_and_once(compared, brief) -> None:
    found = cell("4/cifar10/WRN-40-1/top1_error", compared, five([1200, 1210], protocol=brief))
    materials = [d.material for d in found.deviations]
    assert materials == sorted(materials, reverse=True)
    assert len(set(found.deviations)) == len(found.deviations)


@pytest.mark.parametrize(("dataset", "margin"), [("cifar10", 0.3), ("cifar100", 0.6)])
def test_the_margin_is_that_of_the_claims_dataset(compared, dataset, margin) -> None:
    runs = five([2289, 2290, 2288], network="WRN-40-4", dataset=dataset)
    assert cell(f"4/{dataset}/WRN-40-4/top1_error", compared, runs).margin == margin


def test_difference_and_interval_are_ours_minus_the_papers(compared) -> None:
    found = cell("3/cifar10/WRN-40-2-B(3,3)/top1_error", compared, five([620, 625, 630], network="WRN-40-2"))
    assert found.claim is not None
    assert found.difference == pytest.approx(6.25 - found.claim.value)
    low, high = found.interval
    assert low < found.difference < high


def test_top_5_errors_meet_claims_of_top_5_errors(compared) -> None:
    """Only the runs that have one: CIFAR's do not."""
    network = "WRN-50-2-bottleneck"
    run = result(11_000, network=network, dataset="imagenet", protocol="paper-imagenet", top5_error=6.1)
    without = result(11_000, network=network, dataset="imagenet", protocol="paper-imagenet", run="without", seed=2)
    for metric, runs, median in (("top1_error", 2, 22.0), ("top5_error", 1, 6.1)):
        found = cell(f"8/imagenet/{network}/{metric}", compared, [run, without])
        assert found.ours is not None
        assert (found.ours.n, found.ours.median) == (runs, median)


@pytest.mark.parametrize(
    ("errors", "wanted"), [(NEAR[:2], 1), ([520, 521, 522], 2), ([520, 521, 522, 523], 1), ([517] * 10, None)]
)
def test_an_undecided_verdict_wants_the_runs_of_the_next_look(compared, errors, wanted) -> None:
    found = cell("3/cifar10/WRN-40-2-B(3,3)/top1_error", compared, five(errors, network="WRN-40-2"))
    assert found.verdict is Verdict.INCONCLUSIVE
    assert runs_wanted(found, PAPER) == wanted


def test_the_runs_of_the_lowest_seeds_make_the_verdict_until_the_next_look(compared) -> None:
    claim, runs = "3/cifar10/WRN-40-2-B(3,3)/top1_error", five([540, 541, 542, 900], network="WRN-40-2")
    three, four = cell(claim, compared, runs[:3]), cell(claim, compared, runs)
    assert three.verdict is four.verdict is Verdict.REPRODUCED
    assert (four.ours.n, four.ours.mean) == (4, pytest.approx(6.3075))
    assert four.judgement.look == three.judgement.look
    seeds = [result(e, network="WRN-40-2", seed=s) for s, e in ((10, 900), (2, 541), (3, 542), (1, 540))]
    assert cell(claim, compared, seeds).verdict is Verdict.REPRODUCED, "seed 10 comes after seed 3"


def test_the_order_in_which_runs_finish_changes_no_verdict(compared) -> None:
    """A look at three is one at the three lowest planned seeds, and waits for them."""
    claim, runs = "3/cifar10/WRN-40-2-B(3,3)/top1_error", five([540, 541, 542, 600, 601, 602], network="WRN-40-2")
    of, verdicts = compared(runs), set()
    for finished in itertools.permutations(runs):
        for count in (3, 4):
            found = cell_of(CLAIMS[claim], replace(of, results=finished[:count]))
            if {run.record.seed for run in finished[:count]} >= {1, 2, 3}:
                verdicts.add(found.verdict)
            else:
                assert (found.verdict, found.judgement.look) == (Verdict.INCONCLUSIVE, None)
                assert runs_wanted(found, PAPER) == max(1, 3 - count)
    assert verdicts == {Verdict.REPRODUCED}


def test_a_seed_that_counts_already_is_not_waited_for_again(compared) -> None:
    """The same seed is planned in fp32 and in bf16, and one of the two is finished."""
    bf16 = [
        result(e, network="WRN-40-2", seed=s, run=f"half-{s}", protocol=changed("paper-zca", precision="bf16"))
        for s, e in enumerate([540, 541, 542], 1)
    ]
    of = replace(compared([*bf16, *five([540, 541], network="WRN-40-2")]), results=bf16)
    found = cell_of(CLAIMS["3/cifar10/WRN-40-2-B(3,3)/top1_error"], of)
    assert (found.judgement.look.n, found.verdict) == (3, Verdict.REPRODUCED)


def test_cells_pool_their_spread_and_shared_runs_count_once(compared) -> None:
    """WRN-40-2 answers Tables 3 and 4: its five runs have four degrees of freedom, the other network's three two."""
    wide = five([500, 540, 580, 520, 560], network="WRN-40-2")
    others = five([600, 650, 700], network="WRN-40-2-B(3)")
    alone, both = (cell("4/cifar10/WRN-40-2/top1_error", compared, runs) for runs in (wide, [*wide, *others]))
    assert (alone.judgement.freedom, both.judgement.freedom) == (5 + 4, 5 + 4 + 2)
    assert both.judgement.spread > alone.judgement.spread


def test_a_network_with_dropout_is_not_the_one_without(compared) -> None:
    plain = five([400] * 3, network="WRN-28-10", protocol="paper-meanstd")
    assert cell("6/cifar10/WRN-28-10-dropout/top1_error", compared, plain).verdict is Verdict.NOT_RUN
    assert cell("6/cifar10/WRN-28-10/top1_error", compared, plain).runs != ()


@pytest.mark.parametrize("name", ["WRN-28-10", "WRN-28-10-dropout"])
def test_a_dash_takes_the_protocol_of_its_column_with_the_same_dropout(compared, name) -> None:
    """Table 6 has no number of WRN-28-10 on SVHN. By the column's recipe it deviates in nothing material."""
    runs = five([450] * 3, network=name, dataset="svhn", protocol="paper-svhn")
    found = table("6", compared(runs))
    column = Column("svhn", "top1_error")
    dash = found.cell(name, column)
    assert (dash.kind, dash.claim, dash.verdict, dash.judgement) == ("unpublished", None, None, None)
    assert (dash.margin, dash.caveats) == (None, ())
    assert dash.runs == tuple(run.run for run in runs)
    assert [d.field for d in dash.deviations] == ["device", "library"]
    other = "WRN-28-10" if name.endswith("dropout") else "WRN-28-10-dropout"
    assert found.cell(other, column).runs == ()


def test_a_dash_shows_another_dropout_as_a_deviation(compared) -> None:
    recipe = changed("paper-svhn", dropout=0.1)
    runs = five([450] * 3, network="WRN-28-10-dropout", dataset="svhn", protocol=recipe)
    dash = table("6", compared(runs)).cell("WRN-28-10-dropout", Column("svhn", "top1_error"))
    assert [str(d) for d in dash.deviations if d.material] == ["dropout: 0.1 instead of 0.4"]


def test_evidence_counts_beside_the_plan_each_seed_once(compared) -> None:
    """Also where the plan names none of it; of two runs of a seed and a recipe the one that is committed counts."""
    commit = "0123456789abcdef" * 2
    claim, runs = CLAIMS["3/cifar10/WRN-40-2-B(3,3)/top1_error"], five(NEAR, network="WRN-40-2")
    evidence = [replace(run, commit=commit) for run in runs]
    alone = cell_of(claim, planned(PAPER, compared([]).plan, evidence))
    assert (alone.verdict, alone.ours.n) == (Verdict.REPRODUCED, 5)
    assert set(alone.origins) == {"evidence of commit 0123456789ab"}
    again = [result(900, network="WRN-40-2", seed=seed) for seed in (1, 2)]
    both = cell_of(claim, planned(PAPER, compared(again).plan, [*evidence[:3], *again]))
    assert (both.ours.n, both.verdict, set(both.origins)) == (3, Verdict.REPRODUCED, set(alone.origins))
    assert [e.reason for e in both.excluded] == ["its seed is counted already"] * 2
    beside = cell_of(claim, planned(PAPER, compared(runs[3:]).plan, [*evidence[:3], *runs[3:]]))
    assert beside.ours == alone.ours
    assert beside.origins == (*alone.origins[:3], "this plan", "this plan")


def test_a_seed_that_evidence_leaves_out_holds_up_the_verdict(compared) -> None:
    """Somebody trained seeds 1 to 5 and contributes those that please."""
    claim, runs = CLAIMS["3/cifar10/WRN-40-2-B(3,3)/top1_error"], five(NEAR, network="WRN-40-2")
    chosen = [replace(run, commit="c") for run in runs if run.record.seed != 2]
    found = cell_of(claim, planned(PAPER, compared([]).plan, chosen))
    assert (found.ours.n, found.verdict, found.judgement.look) == (4, Verdict.INCONCLUSIVE, None)
    ours = replace(compared(runs[1:2]), results=[*chosen, runs[1]])
    assert cell_of(claim, ours).verdict is Verdict.REPRODUCED


def test_a_look_waits_for_planned_seeds_below_those_of_evidence(compared) -> None:
    claim, runs = CLAIMS["3/cifar10/WRN-40-2-B(3,3)/top1_error"], five(NEAR, network="WRN-40-2")
    waits = replace(compared(runs[:1]), results=[])
    evidence = [replace(run, commit="c") for run in runs[1:4]]
    found = cell_of(claim, replace(waits, results=evidence))
    assert (found.ours.n, found.verdict, found.judgement.look) == (3, Verdict.INCONCLUSIVE, None)


def test_the_order_of_results_does_not_matter(compared, brief) -> None:
    runs = [*five(NEAR[:3], network="WRN-40-2"), result(900, network="WRN-40-2", protocol=brief, seed=4)]
    cells = {cell("4/cifar10/WRN-40-2/top1_error", compared, list(p)) for p in itertools.permutations(runs)}
    assert len(cells) == 1


def test_counts_are_exact_and_named_when_wrong(compared) -> None:
    claim = CLAIMS["4/cifar10/WRN-28-10/params_millions"]
    found = cell_of(claim, compared([]))
    assert (found.count, found.verdict) == (36_479_194, Verdict.SAME_COUNT)
    assert cell_of(replace(claim, text="36.6"), compared([])).verdict is Verdict.OTHER_COUNT


def test_quoted_and_timed_numbers_are_not_judged(compared) -> None:
    for claim in CLAIMS.values():
        if claim.kind in ("quoted", "timing"):
            assert cell_of(claim, compared([])).verdict is None


def test_table_4_has_ten_rows_and_one_dash(compared) -> None:
    runs = five([2100] * 3, network="WRN-40-8", dataset="cifar100")
    for results in ([], runs):
        found = table("4", compared(results))
        assert len(found.models) == 10
        dashes = [c for c in found.cells if c.kind == "unpublished"]
        assert [(c.model, c.dataset) for c in dashes] == [("WRN-40-8", "cifar100")]
        assert dashes[0].verdict is None
        assert (dashes[0].ours is None) is (results == [])


def test_runs_outside_the_plan_are_ignored(compared) -> None:
    runs = five(NEAR)
    assert table("4", planned(PAPER, compared([]).plan, runs)).cell("WRN-40-1", C10).verdict is Verdict.NOT_RUN
    assert table("4", compared(runs)).cell("WRN-40-1", C10).runs


def test_a_missing_margin_is_the_users_to_give(compared) -> None:
    runs = five(NEAR, network="WRN-40-2")
    of = compared(runs)
    comparison = of.plan.comparison.model_copy(update={"margins": {}})
    of = replace(of, plan=of.plan.model_copy(update={"comparison": comparison}))
    with pytest.raises(UserError, match="no margin for cifar10"):
        cell_of(CLAIMS["4/cifar10/WRN-40-2/top1_error"], of)
