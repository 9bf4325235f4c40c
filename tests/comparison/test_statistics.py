"""Verdicts keep the error rates they promise, on simulated pairs of papers and re-runs."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import t

from pipeline.comparison.statistics import (
    MOST,
    Judgement,
    Verdict,
    critical_value,
    judge,
    published_spread,
    runs_to_settle,
    summarise,
)

SD, MARGIN = 0.12, 0.3
DIFFERS = (Verdict.BETTER, Verdict.WORSE)


def verdicts(n: int, paper_runs: int, shift: float, pairs: int, decimals: int = 2) -> list[Verdict]:
    """What `judge` says of independent papers (rounded as printed) and re-runs, whose truths differ by `shift`."""
    generator = np.random.default_rng([n, paper_runs, pairs])
    papers = np.round(np.median(generator.normal(5, SD, (pairs, paper_runs)), axis=1), decimals)
    ours = generator.normal(5 + shift, SD, (pairs, n))
    return [
        judge(
            list(errors), paper, paper_runs=paper_runs, margin=MARGIN, rounding=0.5 * 10**-decimals, images=10_000
        ).verdict
        for errors, paper in zip(ours.tolist(), papers.tolist(), strict=True)
    ]


@pytest.mark.parametrize(("n", "paper_runs"), [(3, 5), (5, 5), (8, 5), (5, 1), (10, 1)])
def test_differs_comes_up_in_5_percent_when_nothing_differs(n: int, paper_runs: int) -> None:
    found = verdicts(n, paper_runs, 0.0, 10_000)
    assert sum(v in DIFFERS for v in found) / len(found) == pytest.approx(0.05, abs=0.01)


@pytest.mark.parametrize(("n", "paper_runs"), [(3, 5), (5, 5), (20, 5), (5, 1), (20, 1)])
@pytest.mark.parametrize("sign", [-1, 1])
def test_reproduced_is_rare_when_truth_is_off_by_twice_the_margin(n: int, paper_runs: int, sign: int) -> None:
    found = verdicts(n, paper_runs, sign * 2 * MARGIN, 4_000)
    assert found.count(Verdict.REPRODUCED) / len(found) < 0.05


def test_enough_runs_do_reproduce_what_is_true() -> None:
    """Without this, a judge that never says reproduced would pass the test above."""
    found = verdicts(20, 5, 0.0, 2_000)
    assert found.count(Verdict.REPRODUCED) / len(found) > 0.85


def test_an_unstated_number_of_runs_is_taken_conservatively() -> None:
    """If the paper's number was a median of five in truth, calling it a single run says differs less often."""
    generator = np.random.default_rng(1)
    papers = np.median(generator.normal(5, SD, (4_000, 5)), axis=1)
    ours = generator.normal(5, SD, (4_000, 5))
    found = [
        judge(list(e), p, paper_runs=1, margin=MARGIN, rounding=0.005, images=10_000).verdict
        for e, p in zip(ours.tolist(), papers.tolist(), strict=True)
    ]
    assert sum(v in DIFFERS for v in found) / len(found) < 0.03


def test_critical_values_that_are_known_otherwise() -> None:
    assert critical_value(5, 5) == pytest.approx(2.01, abs=0.02)
    # The median of two is their mean, and one number is its own median: then the distribution is Student's.
    assert critical_value(2, 1) == pytest.approx(t.ppf(0.975, 1) * math.sqrt(1.5), rel=0.03)
    assert critical_value(1, 1, published_spread=True) == pytest.approx(t.ppf(0.975, 4) * math.sqrt(2), rel=0.01)


def test_few_runs_use_the_published_spread_and_are_never_reproduced() -> None:
    for errors in ([5.33], [5.33, 5.34]):
        judged = judge(errors, 5.33, paper_runs=5, margin=5.0, rounding=0.005, images=10_000)
        assert judged.verdict is Verdict.INCONCLUSIVE
        assert judged.within_margin
        assert judged.spread_is_published
        assert judged.spread == published_spread(5.33, 10_000)
    far = judge([12.0], 5.33, paper_runs=5, margin=0.3, rounding=0.005, images=10_000)
    assert far.verdict is Verdict.WORSE


def test_published_spread_scales_with_the_test_split_and_the_error() -> None:
    assert published_spread(4.435, 10_000) == pytest.approx(0.35 / 2.534)
    assert published_spread(4.435, 40_000) == pytest.approx(0.35 / 2.534 / 2)
    assert published_spread(20.0, 10_000) > published_spread(4.435, 10_000)
    assert published_spread(0.0, 10_000) > 0


def test_rounding_of_the_printed_number_widens_the_interval() -> None:
    fine = judge([3.8, 3.9, 4.0], 3.8, paper_runs=1, margin=0.3, rounding=0.005, images=10_000)
    coarse = judge([3.8, 3.9, 4.0], 3.8, paper_runs=1, margin=0.3, rounding=0.05, images=10_000)
    assert coarse.half_width - fine.half_width == pytest.approx(0.045)


def test_the_plan_agrees_with_the_simulation_it_stands_for() -> None:
    """`runs_to_settle` uses a formula: at the number of runs it names, the simulated half width does settle."""
    for paper_runs, spread in ((5, 0.14), (1, 0.11)):
        runs = runs_to_settle(5, 0.02, spread, paper_runs=paper_runs, margin=MARGIN, rounding=0.005)
        assert runs is not None
        assert runs > 5
        assert 0.02 + critical_value(runs, paper_runs) * spread + 0.005 <= MARGIN * 1.02
        assert 0.02 + critical_value(runs - 1, paper_runs) * spread + 0.005 > MARGIN * 0.94
    # The paper's own single run is then wider than the margin, whatever we do.
    assert runs_to_settle(5, 0.02, 0.2, paper_runs=1, margin=MARGIN, rounding=0.005) is None
    assert MOST > 20


def test_summary_of_a_sample() -> None:
    sample = summarise([3.0, 1.0, 2.0, 6.0])
    assert (sample.n, sample.median, sample.smallest, sample.largest) == (4, 2.5, 1.0, 6.0)
    assert sample.sd == pytest.approx(np.std([1, 2, 3, 6], ddof=1))
    assert summarise([1.0]).sd is None


ERRORS = st.lists(st.integers(380, 720), min_size=1, max_size=9)


def judged(errors: list[int], published: int, margin: float = MARGIN, **options: bool) -> Judgement:
    return judge(
        [e / 100 for e in errors],
        published / 100,
        paper_runs=5,
        margin=margin,
        rounding=0.005,
        images=10_000,
        **options,
    )


@given(ERRORS, st.integers(380, 720), st.randoms())
def test_the_order_of_runs_does_not_matter(errors: list[int], published: int, random) -> None:
    shuffled = errors.copy()
    random.shuffle(shuffled)
    assert judged(shuffled, published) == judged(errors, published)


@given(ERRORS.filter(lambda e: len(e) >= 3), st.integers(380, 720), st.integers(0, 2000))
def test_a_constant_on_both_sides_changes_nothing(errors: list[int], published: int, constant: int) -> None:
    before, after = judged(errors, published), judged([e + constant for e in errors], published + constant)
    assert after.difference == pytest.approx(before.difference, abs=1e-9)
    assert after.half_width == pytest.approx(before.half_width, abs=1e-9)
    if abs(abs(before.difference) - before.half_width) > 1e-6:
        assert (after.verdict in DIFFERS) is (before.verdict in DIFFERS)


@given(ERRORS, st.integers(380, 720), st.floats(0.01, 2), st.floats(0, 3))
def test_a_wider_margin_only_turns_inconclusive_into_reproduced(
    errors: list[int], published: int, margin: float, more: float
) -> None:
    narrow, wide = judged(errors, published, margin), judged(errors, published, margin + more)
    if narrow.verdict is not wide.verdict:
        assert (narrow.verdict, wide.verdict) == (Verdict.INCONCLUSIVE, Verdict.REPRODUCED)


@given(ERRORS, st.integers(380, 720))
def test_better_is_lower_for_errors_and_higher_for_precision(errors: list[int], published: int) -> None:
    opposite = {Verdict.BETTER: Verdict.WORSE, Verdict.WORSE: Verdict.BETTER}
    error = judged(errors, published)
    if error.verdict is Verdict.BETTER:
        assert error.difference < 0
    precision = judged(errors, published, higher_is_better=True)
    assert precision.verdict is opposite.get(error.verdict, error.verdict)
