"""Statements about which network is better agree with the paper's own numbers, and are judged by ours."""

import numpy as np
import pytest
from made_up_runs import five, result

from pipeline.comparison.orderings import Standing, judge_ordering, load_orderings, p_value

ORDERINGS = {ordering.name: ordering for ordering in load_orderings()}
DROPOUT = ORDERINGS["dropout-wrn-28-10"]


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
