"""Statements about which network is better agree with the paper's own numbers, and are judged by ours."""

import csv
import io
import json

import numpy as np
import pytest
from made_up_runs import changed, five, result

from pipeline.comparison.formats import sentences
from pipeline.comparison.orderings import Standing, judge_ordering, load_orderings, p_value

ORDERINGS = {ordering.name: ordering for ordering in load_orderings()}
DROPOUT = ORDERINGS["dropout-wrn-28-10"]
NOT_RUN = "wider-better-imagenet-34"


def runs(with_dropout: list[int], without: list[int], **settings):
    settings = {"protocol": "paper-meanstd", **settings}
    return [
        *five(with_dropout, network="WRN-28-10-dropout", **settings),
        *five(without, network="WRN-28-10", **settings),
    ]


def standing(plan_of, results) -> Standing:
    return judge_ordering(DROPOUT, plan_of(results), results).standing


def test_the_papers_numbers_have_the_order_it_states() -> None:
    for ordering in ORDERINGS.values():
        for lower, higher in ordering.pairs:
            assert lower.value < higher.value, f"{ordering.name}: {lower.id} {higher.id}"
            assert lower.dataset == higher.dataset
            assert lower.kind == higher.kind == "runnable"


def test_dropout_is_claimed_exactly_where_table_6_shows_it() -> None:
    from pipeline.publication.claims import claims_of

    six = {(c.dataset, c.model): c.value for c in claims_of("6")}
    helps = {(d, m) for d, m in six if six.get((d, f"{m}-dropout"), np.inf) < six[d, m]}
    claimed = {
        (higher.dataset, higher.model)
        for ordering in ORDERINGS.values()
        for lower, higher in ordering.pairs
        if lower.table == "6" and lower.model == f"{higher.model}-dropout"
    }
    assert claimed == helps
    assert ("cifar10", "WRN-16-4") not in helps


def test_standings(plan_of, brief) -> None:
    low, high = [380, 385, 388, 390, 391], [400, 402, 405, 410, 411]
    assert standing(plan_of, runs(low, high)) is Standing.HOLDS
    assert standing(plan_of, runs(high, low)) is Standing.CONTRADICTED
    assert standing(plan_of, runs([390, 400, 410], [391, 399, 411])) is Standing.INCONCLUSIVE
    assert standing(plan_of, runs(low, high)[:5]) is Standing.NOT_RUN
    assert standing(plan_of, runs(low, high, protocol=brief)) is Standing.NOT_RUN


def test_all_pairs_have_to_hold(plan_of) -> None:
    ordering = ORDERINGS["two-convolutions-best"]
    best = five([540, 541, 542, 543, 544], network="WRN-40-2")
    others = [
        *five([600, 601, 602, 603, 604], network="WRN-40-2-B(3)"),
        *five([600, 601, 602, 603, 604], network="WRN-40-2-B(3,3,3)"),
    ]
    last = [result(539 + seed, network="WRN-40-2-B(3,3,3,3)", seed=seed) for seed in range(1, 6)]
    results = [*best, *others, *last]
    judged = judge_ordering(ordering, plan_of(results), results)
    assert judged.standing is Standing.INCONCLUSIVE
    assert judged.p_value is not None
    assert judged.p_value > 0.3
    assert judged.runs == ((5, 5), (5, 5), (5, 5))
    incomplete = [*best, *others]
    assert judge_ordering(ordering, plan_of(incomplete), incomplete).standing is Standing.NOT_RUN


def table_3(best: list[int], others: list[int], last: list[int]):
    """Runs of all networks of Table 3, where the paper has l=2 before the three others."""
    return [
        *five(best, network="WRN-40-2"),
        *(run for name in ("3", "3,3,3") for run in five(others, network=f"WRN-40-2-B({name})")),
        *five(last, network="WRN-40-2-B(3,3,3,3)"),
    ]


def test_one_pair_of_three_contradicts_at_a_third_of_the_level_only(plan_of) -> None:
    """Three runs against five reach p = 1/56, four against four 1/70; the limit is 1/60."""
    ordering = ORDERINGS["two-convolutions-best"]
    above = table_3([540, 541, 542], [600, 601, 602], [520, 521, 522, 523, 524])
    below = table_3([540, 541, 542, 543], [600, 601, 602, 603], [520, 521, 522, 523])
    assert judge_ordering(ordering, plan_of(above), above).standing is Standing.INCONCLUSIVE
    assert judge_ordering(ordering, plan_of(below), below).standing is Standing.CONTRADICTED


@pytest.mark.parametrize(("better", "expected"), [(6, Standing.INCONCLUSIVE), (7, Standing.CONTRADICTED)])
def test_one_pair_of_five_contradicts_at_a_fifth_of_the_level_only(plan_of, better, expected) -> None:
    """Three runs against six reach p = 1/84, against seven 1/120; the limit is 1/100."""
    ordering = ORDERINGS["block-b33-best"]
    (best, first), *rest = [(lower.model, higher.model) for lower, higher in ordering.pairs]
    results = [*five([540, 541, 542], network=best), *five(range(520, 520 + better), network=first)]
    results += [run for _, name in rest for run in five([600, 601, 602], network=name)]
    assert judge_ordering(ordering, plan_of(results), results).standing is expected


def test_all_pairs_hold_at_the_level_itself(plan_of) -> None:
    """That all of them have to hold is stricter than any one: there is nothing to correct."""
    results = table_3([540, 541, 542], [600, 601, 602], [600, 601, 602])
    judged = judge_ordering(ORDERINGS["two-convolutions-best"], plan_of(results), results)
    assert (judged.standing, judged.p_value) == (Standing.HOLDS, 0.05)
    assert judged.differences == pytest.approx((-0.6, -0.6, -0.6))


def test_a_pair_can_contradict_while_another_has_no_runs(plan_of) -> None:
    results = table_3([540, 541, 542, 543], [], [520, 521, 522, 523])
    judged = judge_ordering(ORDERINGS["two-convolutions-best"], plan_of(results), results)
    assert (judged.standing, judged.p_value) == (Standing.CONTRADICTED, None)
    assert judged.differences == (None, None, pytest.approx(0.2))
    assert judged.runs == ((4, 0), (4, 0), (4, 4))


def test_runs_that_the_plan_does_not_name_order_nothing(plan_of) -> None:
    results = runs([380, 385, 388], [400, 402, 405])
    assert judge_ordering(DROPOUT, plan_of(results), results).standing is Standing.HOLDS
    assert judge_ordering(DROPOUT, plan_of(results[:3]), results).standing is Standing.NOT_RUN


def test_of_a_seed_that_ran_twice_the_run_nearest_the_paper_is_ordered(plan_of) -> None:
    results = runs([380, 385, 388], [400, 402, 405])
    bf16 = changed("paper-meanstd", precision="bf16")
    again = result(9000, run="a", network="WRN-28-10-dropout", protocol=bf16, seed=1)
    judged = judge_ordering(DROPOUT, plan_of([again, *results]), [again, *results])
    assert (judged.standing, judged.runs) == (Standing.HOLDS, ((3, 3),))


@pytest.mark.parametrize("form", ["text", "markdown", "csv", "json"])
def test_judged_orderings_read_back(plan_of, form) -> None:
    results = table_3([540, 541, 542], [600, 601, 602], [620, 621, 622, 623])
    judged = [judge_ordering(ORDERINGS[name], plan_of(results), results) for name in ("two-convolutions-best", NOT_RUN)]
    if form == "json":
        first, second = json.loads(sentences.render_json(judged))
        assert (first["ordering"], first["standing"], first["p_value"]) == ("two-convolutions-best", "holds", 0.05)
        assert [pair["runs"] for pair in first["pairs"]] == [[3, 3], [3, 3], [3, 4]]
        assert [pair["difference"] for pair in first["pairs"]] == [-0.6, -0.6, -0.805]
        published = [pair["published_difference"] for pair in first["pairs"]]
        assert published == [round(a.value - b.value, 3) for a, b in ORDERINGS["two-convolutions-best"].pairs]
        assert (second["standing"], second["p_value"]) == ("not run", None)
        assert {pair["difference"] for pair in second["pairs"]} == {None}
    elif form == "csv":
        first, second = csv.DictReader(io.StringIO(sentences.render_csv(judged)))
        told = (first["standing"], first["p_value"], first["runs"])
        assert told == ("holds", "0.0500", "3 against 3, 3 against 3, 3 against 4")
        assert (second["standing"], second["p_value"]) == ("not run", "")
    else:
        said = sentences.render_markdown(judged) if form == "markdown" else sentences.render_text(judged, 80)
        plain = " ".join(said.split())
        assert "holds" in plain
        assert "0.0500" in plain
        assert "3 against 3, 3 against 3, 3 against 4" in plain
        assert all(judged[i].ordering.text in plain for i in (0, 1))


def test_p_values_that_are_known_by_counting() -> None:
    assert p_value([1, 2, 3, 4, 5], [6, 7, 8, 9, 10]) == pytest.approx(1 / 252)
    assert p_value([1, 2, 3], [4, 5, 6]) == pytest.approx(1 / 20)
    assert p_value([4, 5, 6], [1, 2, 3]) == 1.0
    assert p_value([1.0], [2.0]) == 0.5
    assert p_value([2.0], [2.0]) == 1.0


def test_p_value_keeps_its_level() -> None:
    generator = np.random.default_rng(3)
    found = [p_value(list(e[:5]), list(e[5:])) for e in generator.normal(5, 0.1, (1500, 10))]
    assert np.mean(np.array(found) <= 0.05) == pytest.approx(0.048, abs=0.02)


def test_many_runs_are_resampled_the_same_each_time() -> None:
    generator = np.random.default_rng(4)
    lower, higher = list(generator.normal(5, 1, 15)), list(generator.normal(5.5, 1, 15))
    first = p_value(lower, higher)
    assert 0 < first < 0.3
    assert first == p_value(lower, higher)
