"""Claims meet runs: which runs count, and what happens to the others."""

import itertools
from dataclasses import replace

import pytest
from made_up_runs import PRINTED, cell_in, changed, five, result, times

from pipeline.comparison.cells import Cell, cell_of, comparable_runs, planned, runs_wanted
from pipeline.comparison.tables import table, with_times
from pipeline.comparison.verdict_rule import Verdict
from pipeline.errors import UserError
from pipeline.publication.wide_resnet import PAPER

CLAIMS = {claim.id: claim for claim in PAPER.claims}
TWO, FOUR = "3/cifar10/WRN-40-2-B(3,3)/top1_error", "4/cifar10/WRN-40-2/top1_error"  # of one network
ONE = "4/cifar10/WRN-40-1/top1_error"
EARLY = {"kind": "step", "drop_after": (20, 40, 60), "factor": 0.2, "reset_momentum": True}
NEAR = [540, 548, 541, 545, 543]  # of WRN-40-2, for which Table 3 prints 5.43, a median of five


def wide(errors, **settings):
    return five(errors, network="WRN-40-2", **settings)


def cell(claim_id: str, compared, runs) -> Cell:
    return cell_of(CLAIMS[claim_id], compared(runs))


def left_out(found: Cell) -> list[tuple[str, str]]:
    return [(run.run, run.reason) for run in found.excluded]


@pytest.mark.parametrize(("shift", "verdict"), [(0, Verdict.REPRODUCED), (-80, Verdict.BETTER), (80, Verdict.WORSE)])
def test_five_runs_of_the_papers_protocol(compared, shift, verdict) -> None:
    found, points = cell(TWO, compared, wide([error + shift for error in NEAR])), shift / 100
    assert (found.verdict, found.caveats, runs_wanted(found, PAPER)) == (verdict, (1, 2, 8), None)
    shown = (found.ours.n, found.ours.median, found.ours.min, found.ours.max, found.ours.mean)
    assert shown == pytest.approx((5, 5.43 + points, 5.40 + points, 5.48 + points, 5.434 + points))
    assert [found.difference, sum(found.interval) / 2] == pytest.approx([0.004 + points] * 2)


def test_without_runs_that_count(compared) -> None:
    runs = wide(NEAR)
    for of in (compared(five(NEAR)), planned(PAPER, compared([]).plan, runs)):
        found = cell_of(CLAIMS[FOUR], of)
        assert (found.verdict, found.ours, found.runs, runs_wanted(found, PAPER)) == (Verdict.NOT_RUN, None, (), 3)


def test_dataset_and_dropout_keep_runs_apart(compared) -> None:
    for name, other in itertools.permutations(("WRN-28-10-dropout", "WRN-28-10")):
        runs = five([400] * 3, network=name, protocol="paper-meanstd")
        assert cell(f"6/cifar10/{name}/top1_error", compared, runs).runs
        assert cell(f"6/cifar10/{other}/top1_error", compared, runs).verdict is Verdict.NOT_RUN
        assert cell(f"6/cifar100/{name}/top1_error", compared, runs).verdict is Verdict.NOT_RUN


def test_runs_of_another_protocol_are_not_comparable_and_shown(compared, brief) -> None:
    found = cell(ONE, compared, [*five([1234, 1210], protocol=brief), result(9000, protocol=brief, seed=2, run="z")])
    assert (found.verdict, found.interval, found.ours.mean) == (Verdict.NOT_COMPARABLE, None, pytest.approx(12.22))
    assert left_out(found) == [("z", "its seed is counted already")]
    material = [deviation.material for deviation in found.deviations]
    assert material == sorted(material, reverse=True)
    assert {"epochs", "schedule", "preprocessing"} <= {d.field for d in found.deviations if d.material}
    assert len(set(found.deviations)) == len(found.deviations)


def test_only_comparable_runs_make_the_verdict(compared, brief) -> None:
    """Also where the run that is left out has a seed of one that counts."""
    good = wide(NEAR)
    alone = cell(TWO, compared, good)
    for seed in (1, 9):
        mixed = cell(TWO, compared, [result(900, network="WRN-40-2", protocol=brief, seed=seed, run="a"), *good])
        assert (mixed.verdict, mixed.ours, mixed.runs) == (alone.verdict, alone.ours, alone.runs)
        assert left_out(mixed) == [("a", "not comparable")]
        assert mixed.excluded[0].error == 9.0


def test_of_two_runs_of_a_seed_the_one_nearest_the_papers_recipe_counts(compared) -> None:
    """Whatever their ids: one in bf16 has a minor deviation more. Of equals the first by id counts."""
    bf16, runs = changed("paper-zca", precision="bf16"), wide(NEAR)
    others = [result(900, network="WRN-40-2", protocol=bf16, seed=1, run=run) for run in ("a", "z")]
    others.append(result(900, network="WRN-40-2", seed=1, run="z-copy"))
    found = cell(TWO, compared, [*others, *runs])
    assert found.runs == tuple(run.run for run in runs)
    assert left_out(found) == [(run, "its seed is counted already") for run in ("a", "z", "z-copy")]
    counted = comparable_runs(CLAIMS[TWO], compared([*others, *runs]))
    assert [(each.run, each.error) for each in counted] == [(r.run, pytest.approx(r.top1_error)) for r in runs]


def test_of_equals_evidence_counts(compared) -> None:
    runs, evidence = wide(NEAR), replace(result(900, network="WRN-40-2", seed=1, run="z"), commit="c")
    found = cell(TWO, compared, [*runs, evidence])
    assert found.runs == ("z", *(run.run for run in runs[1:]))
    assert left_out(found) == [(runs[0].run, "its seed is counted already")]


def test_of_several_recipes_that_are_not_the_papers_the_nearest_is_shown(compared, brief) -> None:
    """Even if another one, with more deviations, has more runs."""
    longer = changed("paper-zca", epochs=300)
    runs = [*wide([1200, 1210], protocol=brief), result(530, run="z", network="WRN-40-2", protocol=longer, seed=9)]
    found = cell(FOUR, compared, runs)
    assert (found.verdict, found.runs) == (Verdict.NOT_COMPARABLE, ("z",))
    assert left_out(found) == [(run.run, "another protocol") for run in runs[:2]]


@pytest.mark.parametrize("epochs", [(300, 100), (100, 300)])
def test_of_recipes_as_near_the_one_with_most_runs_is_shown(compared, epochs) -> None:
    many, one = (changed("paper-zca", epochs=count, schedule=EARLY) for count in epochs)
    others = [result(530, run=run, network="WRN-40-2", protocol=one, seed=seed) for run, seed in (("a", 9), ("b", 1))]
    found = cell(FOUR, compared, [*wide([1200, 1210, 1220], protocol=many), *others])
    assert (found.ours.n, found.ours.median) == (3, 12.1)
    assert {run.run for run in found.excluded} == {"a", "b"}


@pytest.mark.parametrize(("dataset", "margin"), [("cifar10", 0.3), ("cifar100", 0.6)])
def test_the_margin_is_that_of_the_claims_dataset(compared, dataset, margin) -> None:
    of = compared(five([2289, 2290, 2288], network="WRN-40-4", dataset=dataset))
    claim = CLAIMS[f"4/{dataset}/WRN-40-4/top1_error"]
    assert cell_of(claim, of).margin == margin
    none = of.plan.comparison.model_copy(update={"margins": {}})
    with pytest.raises(UserError, match=f"no margin for {dataset}"):
        cell_of(claim, replace(of, plan=of.plan.model_copy(update={"comparison": none})))


def test_top_5_errors_meet_claims_of_top_5_errors(compared) -> None:
    """Only the runs that have one: CIFAR's do not."""
    made = {"network": "WRN-50-2-bottleneck", "dataset": "imagenet", "protocol": "paper-imagenet"}
    runs = [result(11_000, **made, top5_error=6.1), result(11_000, **made, run="without", seed=2)]
    for metric, count, median in (("top1_error", 2, 22.0), ("top5_error", 1, 6.1)):
        found = cell(f"8/imagenet/WRN-50-2-bottleneck/{metric}", compared, runs)
        assert (found.ours.n, found.ours.median) == (count, median)


@pytest.mark.parametrize(
    ("errors", "wanted"), [(NEAR[:2], 1), ([520, 521, 522], 2), ([520, 521, 522, 523], 1), ([517] * 10, None)]
)
def test_an_undecided_verdict_wants_the_runs_of_the_next_look(compared, errors, wanted) -> None:
    found = cell(TWO, compared, wide(errors))
    assert (found.verdict, runs_wanted(found, PAPER)) == (Verdict.INCONCLUSIVE, wanted)


def test_the_runs_of_the_lowest_seeds_make_the_verdict_until_the_next_look(compared) -> None:
    runs = [result(e, network="WRN-40-2", seed=s) for s, e in ((10, 900), (2, 541), (3, 542), (1, 540))]
    found = cell(TWO, compared, runs)
    assert (found.verdict, found.judgement.look.n) == (Verdict.REPRODUCED, 3)
    assert (found.ours.n, found.ours.mean) == (4, pytest.approx(6.3075))


def test_the_order_in_which_runs_finish_changes_no_verdict(compared) -> None:
    """A look at three is one at the three lowest planned seeds, and waits for them."""
    runs = wide([540, 541, 542, 600, 601, 602])
    of, verdicts = compared(runs), set()
    for finished in (some for count in (3, 4) for some in itertools.combinations(runs, count)):
        found = cell_of(CLAIMS[TWO], replace(of, results=finished[::-1]))
        if {run.record.seed for run in finished} >= {1, 2, 3}:
            verdicts.add(found.verdict)
        else:
            assert (found.verdict, found.judgement.look) == (Verdict.INCONCLUSIVE, None)
            assert runs_wanted(found, PAPER) == max(1, 3 - len(finished))
    assert verdicts == {Verdict.REPRODUCED}


def test_a_seed_that_counts_already_is_not_waited_for_again(compared) -> None:
    """The same seed is planned in fp32 and in bf16, and one of the two is finished."""
    runs = wide([540, 541, 542])
    recipe = changed("paper-zca", precision="bf16")
    bf16 = [result(540, network="WRN-40-2", seed=s, run=f"half-{s}", protocol=recipe) for s in (1, 2, 3)]
    found = cell_of(CLAIMS[TWO], replace(compared([*bf16, *runs[:2]]), results=bf16))
    assert (found.judgement.look.n, found.verdict) == (3, Verdict.REPRODUCED)


def test_a_look_waits_for_planned_seeds_below_those_of_evidence(compared) -> None:
    runs = wide(NEAR)
    waits = replace(compared(runs[:1]), results=[replace(run, commit="c") for run in runs[1:4]])
    found = cell_of(CLAIMS[TWO], waits)
    assert (found.ours.n, found.verdict, found.judgement.look) == (3, Verdict.INCONCLUSIVE, None)


def test_a_look_waits_for_no_planned_seed_of_another_network(compared) -> None:
    runs, other = wide(NEAR)[1:4], result(800, network="WRN-40-2-B(3)", seed=1)
    found = cell_of(CLAIMS[TWO], replace(compared([*runs, other]), results=runs))
    assert (found.ours.n, found.judgement.look.n) == (3, 3)


def test_cells_pool_their_spread_and_shared_runs_count_once(compared) -> None:
    """WRN-40-2 answers Tables 3 and 4: its five runs have four degrees of freedom, the other network's three two."""
    runs = wide([500, 540, 580, 520, 560])
    others = five([600, 650, 700], network="WRN-40-2-B(3)")
    alone, both = (cell(FOUR, compared, each) for each in (runs, [*runs, *others]))
    assert (alone.judgement.freedom, both.judgement.freedom) == (5 + 4, 5 + 4 + 2)
    assert both.judgement.spread > alone.judgement.spread


@pytest.mark.parametrize(
    ("name", "other", "rate", "material"),
    [
        ("WRN-28-10", "WRN-28-10-dropout", 0.4, []),
        ("WRN-28-10-dropout", "WRN-28-10", 0.4, []),
        ("WRN-28-10-dropout", "WRN-28-10", 0.1, ["dropout: 0.1 instead of 0.4"]),
    ],
)
def test_a_dash_takes_the_protocol_of_its_column_with_the_same_dropout(compared, name, other, rate, material) -> None:
    """Table 6 has no number of WRN-28-10 on SVHN. By the column's recipe it deviates in nothing material."""
    runs = five([450] * 3, network=name, dataset="svhn", protocol=changed("paper-svhn", dropout=rate))
    found = table("6", compared(runs))
    dash = cell_in(found, name, "svhn")
    assert (dash.kind, dash.claim, dash.verdict, dash.judgement) == ("unpublished", None, None, None)
    assert (dash.margin, dash.caveats) == (None, ())
    assert dash.runs == tuple(run.run for run in runs)
    assert [str(d) for d in dash.deviations if d.material] == material
    assert cell_in(found, other, "svhn").runs == ()


def test_counts_are_exact_and_what_is_quoted_or_timed_is_not_judged(compared) -> None:
    claim, of = CLAIMS["4/cifar10/WRN-28-10/params_millions"], compared([])
    found = cell_of(claim, of)
    assert (found.count, found.verdict) == (36_479_194, Verdict.SAME_COUNT)
    assert cell_of(replace(claim, text="36.6"), of).verdict is Verdict.OTHER_COUNT
    assert {cell_of(each, of).verdict for each in CLAIMS.values() if each.kind in ("quoted", "timing")} == {None}


SAME = dict.fromkeys(PRINTED, "same order")


@pytest.mark.parametrize(
    ("precision", "ms", "verdicts"),
    [
        ("fp32", {name: value / 10 for name, value in PRINTED.items()}, SAME),
        # two that change places, and two of five measured
        (
            "bf16",
            {**PRINTED, "WRN-28-10": 600},
            {**SAME, "WRN-28-10": "other order", "pre-act-ResNet-1001": "other order"},
        ),
        ("fp32", {"WRN-40-4": 10, "WRN-28-10": 70}, {"WRN-40-4": "same order", "WRN-28-10": "same order"}),
    ],
)
def test_times_of_another_machine_are_judged_by_their_order(compared, tmp_path, precision, ms, verdicts) -> None:
    cells = with_times(table("figure-4", compared([])), times(tmp_path / "figure-4.json", ms, precision)).cells
    found = {each.model: each for each in cells if each.metric == "batch32_ms"}
    assert {name: each.verdict for name, each in found.items()} == dict.fromkeys(PRINTED) | verdicts
    assert {each.verdict for each in cells if each.metric != "batch32_ms"} == {None}
    assert found["WRN-40-4"].time == ms["WRN-40-4"]
    told = ["device: A GPU instead of NVIDIA Titan X", "precision: bf16 instead of fp32"]
    assert [str(d) for d in found["WRN-40-4"].deviations] == told[: 2 if precision == "bf16" else 1]


@pytest.mark.parametrize("text", [None, "{}", "no json"])
def test_another_file_than_times_is_refused(compared, tmp_path, text) -> None:
    path = tmp_path / "other.json"
    if text is not None:
        path.write_text(text)
    with pytest.raises(UserError, match=r"--timings .*other\.json: "):
        with_times(table("figure-4", compared([])), path)
