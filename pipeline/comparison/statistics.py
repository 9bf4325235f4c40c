"""The verdict on one claim: does the published error agree with the errors of our runs?

Assumptions, all of which a reader may question:
1. Errors of runs that differ in their seed alone are independent and normal, with the same spread in the paper's runs
   and ours. Under that model the difference of the two estimators, in units of our sample standard deviation, has a
   distribution without unknowns, which `critical_value` simulates.
2. Our estimator is the median over seeds. The paper's is the claim's own: a median of five, or a single run. Where the
   paper does not say (Tables 4, 7 and 8), a single run is assumed: the least exact estimator, so that neither "differs"
   nor "reproduced" is said too early. If it was a median of five in truth, "differs" comes up in less than 5 %.
3. The published number is rounded, so half a unit of its last place is added to each side of the interval.
4. One or two runs tell no usable spread. Then `published_spread` stands in for it, and nothing is called reproduced.
5. Every claim is judged on its own: among twenty true claims, one "differs" is expected.
"""

import functools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML

from pipeline.publication.claims import Claim

SPREAD = Path(__file__).parents[1] / "publication" / "spread.yaml"
LEVEL = 0.05
"""Probability of "differs" where nothing differs."""
FEWEST = 3
"""Runs below which nothing is called reproduced, and the published spread stands in for the sample's."""
MOST = 50
"""Runs beyond which nobody is sent to settle a claim."""
_DRAWS = 400_000
_SPREAD_FREEDOM = 4
"""Degrees of freedom of a standard deviation estimated by the range of six: 4.7 (Patnaik 1950), rounded down."""
_RANGE_OF_SIX = 2.534
"""Expected range of six standard normal numbers (Tippett 1925): what turns a range into a standard deviation."""


class Verdict(StrEnum):
    """What a claim's runs add up to. Said of our error: "better" is a lower one."""

    REPRODUCED = "reproduced"
    BETTER = "better"
    WORSE = "worse"
    INCONCLUSIVE = "inconclusive"
    NOT_COMPARABLE = "not comparable"
    NOT_RUN = "not run"
    SAME_COUNT = "same count"
    """Of parameters, which are counted and not the outcome of runs."""
    OTHER_COUNT = "other count"


@dataclass(frozen=True)
class Sample:
    """The errors of independent runs, in percent."""

    n: int
    median: float
    smallest: float
    largest: float
    sd: float | None
    """Sample standard deviation, n-1 in the denominator; None for a single run."""


@dataclass(frozen=True)
class Judgement:
    """A verdict with the numbers it rests on, in points of error."""

    verdict: Verdict
    difference: float
    """Our median minus the published number."""
    half_width: float
    """The 95 % interval is the difference plus or minus this."""
    spread: float
    """Standard deviation between runs that the half width was made of."""
    spread_is_published: bool
    """Whether `spread` is the published one instead of our sample's."""
    within_margin: bool
    """Whether the whole interval lies within the margin."""
    runs_to_settle: int | None
    """For "inconclusive": runs in all at which a verdict is expected, if median and spread stay; None beyond MOST."""


def summarise(errors: Sequence[float]) -> Sample:
    """Median and spread of at least one run's errors, whatever their order."""
    ordered = sorted(errors)
    n = len(ordered)
    median = (ordered[(n - 1) // 2] + ordered[n // 2]) / 2
    mean = math.fsum(ordered) / n
    sd = math.sqrt(math.fsum((error - mean) ** 2 for error in ordered) / (n - 1)) if n > 1 else None
    return Sample(n, median, ordered[0], ordered[-1], sd)


def paper_runs(claim: Claim) -> int:
    """Over how many runs the paper took its median; an unstated number counts as one run (assumption 2)."""
    return 5 if claim.statistic == "median5" else 1


def judge(
    errors: Sequence[float],
    published: float,
    *,
    paper_runs: int,
    margin: float,
    rounding: float,
    images: int,
    higher_is_better: bool = False,
) -> Judgement:
    """Compare our errors with a published one, all in percent.

    `paper_runs`: runs in the paper's median; `margin`: points of error that still are "the same"; `rounding`: half a
    unit of the published number's last place; `images`: size of the test split, which scales the published spread.
    """
    ours = summarise(errors)
    few = ours.n < FEWEST or ours.sd is None
    spread = published_spread(published, images) if few or ours.sd is None else ours.sd
    half_width = critical_value(ours.n, paper_runs, published_spread=few) * spread + rounding
    difference = ours.median - published
    within = abs(difference) + half_width <= margin
    settle = None
    if abs(difference) > half_width:
        verdict = Verdict.BETTER if (difference < 0) is not higher_is_better else Verdict.WORSE
    elif within and not few:
        verdict = Verdict.REPRODUCED
    else:
        verdict = Verdict.INCONCLUSIVE
        settle = runs_to_settle(ours.n, difference, spread, paper_runs=paper_runs, margin=margin, rounding=rounding)
    return Judgement(verdict, difference, half_width, spread, few, within, settle)


@functools.cache
def critical_value(n: int, paper_runs: int, *, published_spread: bool = False) -> float:
    """The 95 % quantile of |median of n - median of paper_runs| in units of the standard deviation, by simulation.

    The standard deviation is that of the same n runs, or, with `published_spread`, an independent estimate as uncertain
    as the published one. The generator's seed is fixed, so a verdict never changes from call to call; the simulation
    error is below 0.5 % from three runs on. For two medians of five it is 2.01.
    """
    import numpy as np

    generator = np.random.default_rng([n, paper_runs, published_spread])
    draws = max(50_000, min(_DRAWS, 4_000_000 // n))
    ours = generator.standard_normal((draws, n))
    paper = generator.standard_normal((draws, paper_runs))
    if published_spread:
        spread = np.sqrt(generator.chisquare(_SPREAD_FREEDOM, draws) / _SPREAD_FREEDOM)
    else:
        spread = ours.std(axis=1, ddof=1)
    distance = np.abs(np.median(ours, axis=1) - np.median(paper, axis=1)) / spread
    return float(np.quantile(distance, 1 - LEVEL))


def published_spread(error: float, images: int) -> float:
    """Standard deviation between runs at a published error (percent), in points, from spread.yaml.

    Re-runs were published for CIFAR-10 alone. Elsewhere the spread is taken to be the same multiple of the binomial
    standard error of the test split, because both shrink with its size and with the error.
    """
    known = _spread()
    sd = float(known["range"]) / _RANGE_OF_SIX
    return sd * _binomial_error(error, images) / _binomial_error(float(known["error"]), int(known["images"]))


def _binomial_error(error: float, images: int) -> float:
    """Standard error of an error rate over independent images, all in percent."""
    share = min(max(error / 100, 0.5 / images), 1 - 0.5 / images)
    return 100 * math.sqrt(share * (1 - share) / images)


@functools.cache
def _spread() -> dict[str, Any]:
    data: dict[str, Any] = YAML(typ="safe", pure=True).load(SPREAD.read_text(encoding="utf-8"))
    if data["runs"] != 6:
        raise ValueError(f"{SPREAD.name}: the constants of this module are for a range of 6 runs, not {data['runs']}")
    return data


def runs_to_settle(
    n: int, difference: float, spread: float, *, paper_runs: int, margin: float, rounding: float
) -> int | None:
    """Runs in all, from n + 1 to MOST, at which a verdict is expected if median and spread stay; else None.

    A plan, not a verdict, so Student's quantile and the large-sample variance of a median stand in for the simulation;
    they agree within 5 % from five runs on.
    """
    for runs in range(max(n + 1, FEWEST), MOST + 1):
        half_width = _planned_critical_value(runs, paper_runs) * spread + rounding
        if abs(difference) > half_width or abs(difference) + half_width <= margin:
            return runs
    return None


@functools.cache
def _planned_critical_value(n: int, paper_runs: int) -> float:
    from scipy.special import stdtrit  # scipy.stats takes most of a second to import

    return float(stdtrit(n - 1, 1 - LEVEL / 2)) * math.sqrt(_median_variance(n) + _median_variance(paper_runs))


def _median_variance(n: int) -> float:
    """Variance of the median of n standard normal numbers: exact at 1, within 3 % for odd n, pi/2n in the limit."""
    return math.pi / (2 * n + math.pi - 2)
