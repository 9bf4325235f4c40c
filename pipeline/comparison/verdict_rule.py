"""The rule: what the runs of a claim say of the printed number. Everything that a verdict rests on is in this module.

The question is whether our mean lies within a margin of the number as printed. It is a statement about that number, not
about the error that the authors would have found on average: how many runs stand behind most of their numbers, and how
far these lay apart, nobody can know. Verdicts, in this order:

- reproduced: two one-sided tests (Schuirmann 1987) place our mean within the margin of the printed number, at 3 % a
  side. The number is a fixed reference. Half a unit of its last place is added to the distance, for it was rounded.
- better, worse: our mean lies outside the margin, and the printed number outside the prediction interval, at 2.2 %,
  for a number obtained as the paper's was: one run (variance s^2), or a median of five (0.287 s^2). An unstated
  number counts as one run, which makes "better" and "worse" rarer than they would be if it was a median.
- inconclusive: neither, so far. The next look may tell.

Looks are at 3, 5 and 10 seeds, the lowest that are planned; runs in between are shown and change nothing, so that
nobody trains until the verdict pleases. All three looks together say "differs" in at most 5 % where nothing differs
and the prior's spread is right; where the true spread is 1.4 times the prior's, in 6 % of cells alone.

Assumptions, all of which a reader may question:
1. Errors of runs that differ in their seed alone are independent and normal.
2. Their standard deviation is the same multiple of the binomial standard error of the test split,
   sqrt(p (1 - p) / images), in every cell: so it shrinks with the error and the size of the split. Theory has
   sqrt(error / 2n) for binary tasks (Jordan, arXiv 2304.01910), which is 0.7 of the binomial error; the published
   re-runs have 0.6. It is estimated by all comparable cells together and a prior of 5 degrees of freedom (spread.yaml):
   s^2 = (5 s0^2 + sum of squares within all cells, each scaled) / (5 + their degrees of freedom).
3. Both sides are tested on the same images, so the binomial error itself is not added.
4. Every claim is judged on its own: among a hundred true claims up to five "better" or "worse" are expected.

Orderings ("wider is better") are judged by the same spread: Student's one-sided test of each pair at 2.2 % a look,
which comes to 4 % over all three, in either direction.
What these rules detect and how often: statistical_power.py, docs/reproduction-notes.md.
"""

import functools
import math
import statistics
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Self

from pipeline.publication.claims import Claim
from pipeline.publication.paper import Paper

LOOKS = (3, 5, 10)
"""Numbers of seeds at which a verdict is given; fixed, so that looking more often changes no error rate."""
SIDE = 0.03
"""Level of each of the two one-sided tests behind "reproduced", at each look."""
DIFFERS = 0.022
"""Two-sided level of "better" and "worse" at each look, and one-sided level of an ordering."""
OVERALL = 0.05
"""Bound on what the three looks together call different where nothing differs."""
MEDIAN_OF_FIVE = 0.287
"""Variance of the median of five standard normal numbers."""


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
    SAME_ORDER = "same order"
    """Of times, of which only the order carries over to another machine."""
    OTHER_ORDER = "other order"


@dataclass(frozen=True)
class Sample:
    """The errors of independent runs, in percent."""

    n: int
    mean: float
    median: float
    min: float
    max: float
    sd: float | None
    """Sample standard deviation, n-1 in the denominator; None for a single run."""


@dataclass(frozen=True)
class Errors:
    """Errors of one cell's runs, in percent, by seed, and the size of the test split that they were counted on."""

    values: tuple[float, ...]
    images: int
    settled: int | None = None
    """How many of them, the first, a look may use; all if None. Fewer where a lower seed is planned and not finished:
    the order in which runs finish changes no verdict."""

    @property
    def ready(self) -> int:
        return len(self.values) if self.settled is None else self.settled

    @property
    def at_look(self) -> tuple[float, ...]:
        """Those of the last look."""
        return self.values[: look_at(self.ready)]


@dataclass(frozen=True)
class Spread:
    """How far runs that differ in their seed alone lie apart."""

    ratio: float
    """Standard deviation over the binomial standard error of the test split."""
    freedom: int
    """Degrees of freedom of that estimate."""

    def sd(self, error: float, images: int) -> float:
        """Standard deviation between runs at an error in percent, in points."""
        return self.ratio * _binomial_error(error, images)

    @classmethod
    def published(cls, paper: Paper) -> Self:
        """The prior: of the paper's re-runs."""
        errors, images = paper.reruns
        mean = math.fsum(errors) / len(errors)
        return cls(statistics.stdev(errors) / _binomial_error(mean, images), len(errors) - 1)


@dataclass(frozen=True)
class Distance:
    """From the printed number to the mean of some runs, in points of error."""

    n: int
    difference: float
    """Our mean minus the printed number."""
    half_width: float
    """The interval of the distance, at 3 % a side, is the difference plus or minus this."""
    reach: float
    """How far from our mean a number obtained as the paper's would lie at most, in all but 2.2 % of cases."""

    @property
    def interval(self) -> tuple[float, float]:
        return self.difference - self.half_width, self.difference + self.half_width


@dataclass(frozen=True)
class Judgement:
    """A verdict with the numbers it rests on."""

    verdict: Verdict
    now: Distance
    """By all runs."""
    look: Distance | None
    """By the runs of the last look, which the verdict rests on; None before the first look."""
    next_look: int | None
    """For "inconclusive": the number of seeds at which a verdict can change; None after the last look."""
    spread: float
    """Standard deviation between runs that the distances were judged by, in points."""
    freedom: int


def summarise(errors: Sequence[float]) -> Sample:
    """Mean, median and spread of at least one run's errors, whatever their order."""
    sd = statistics.stdev(errors) if len(errors) > 1 else None
    mean = math.fsum(errors) / len(errors)
    return Sample(len(errors), mean, statistics.median(errors), min(errors), max(errors), sd)


def paper_variance(claim: Claim) -> float:
    """Variance of the printed number in units of the variance between runs; an unstated number counts as one run."""
    return MEDIAN_OF_FIVE if claim.statistic == "median5" else 1.0


def look_at(runs: int) -> int:
    """The last look that a number of runs has reached; 0 before the first."""
    return max((look for look in LOOKS if look <= runs), default=0)


def judge(claim: Claim, errors: Errors, spread: Spread, margin: float) -> Judgement:
    """Compare at least one run's errors with the printed number.

    `spread`: of all comparable cells, this one included; `margin`: points of error that still are "the same".
    """
    sd = spread.sd(claim.value, errors.images)

    def distance(n: int) -> Distance:
        difference = math.fsum(errors.values[:n]) / n - claim.value
        half_width = student(1 - SIDE, spread.freedom) * sd / math.sqrt(n) + claim.rounding
        chance = student(1 - DIFFERS / 2, spread.freedom) * sd * math.sqrt(1 / n + paper_variance(claim))
        return Distance(n, difference, half_width, chance + claim.rounding)

    now, seeds = distance(len(errors.values)), look_at(errors.ready)
    look = distance(seeds) if seeds else None
    verdict = Verdict.INCONCLUSIVE
    if look and abs(look.difference) + look.half_width <= margin:
        verdict = Verdict.REPRODUCED
    elif look and abs(look.difference) > max(margin, look.reach):
        verdict = Verdict.BETTER if (look.difference < 0) is not (claim.metric == "map") else Verdict.WORSE
    later = [number for number in LOOKS if number > errors.ready and verdict is Verdict.INCONCLUSIVE]
    return Judgement(verdict, now, look, min(later, default=None), sd, spread.freedom)


def pooled(cells: Iterable[Errors], prior: Spread) -> Spread:
    """The spread of all cells together and the prior. Only runs of a last look count."""
    squares, freedom = prior.freedom * prior.ratio**2, prior.freedom
    for cell in cells:
        if values := cell.at_look:
            mean = math.fsum(values) / len(values)
            squares += math.fsum((value - mean) ** 2 for value in values) / _binomial_error(mean, cell.images) ** 2
            freedom += len(values) - 1
    return Spread(math.sqrt(squares / freedom), freedom)


def p_value(lower: Errors, higher: Errors, spread: Spread) -> float:
    """One-sided: how often would chance put the mean of `lower` this far below that of `higher`, were they equal?"""
    from scipy.special import stdtr

    means = [math.fsum(side.values) / len(side.values) for side in (lower, higher)]
    variance = sum(
        spread.sd(mean, side.images) ** 2 / len(side.values) for mean, side in zip(means, (lower, higher), strict=True)
    )
    return float(stdtr(spread.freedom, (means[0] - means[1]) / math.sqrt(variance)))


@functools.cache
def student(probability: float, freedom: int) -> float:
    """Quantile of Student's distribution."""
    from scipy.special import stdtrit  # scipy.stats takes most of a second to import

    return float(stdtrit(freedom, probability))


def _binomial_error(error: float, images: int) -> float:
    """Standard error of an error rate over independent images, all in percent."""
    share = min(max(error / 100, 0.5 / images), 1 - 0.5 / images)
    return 100 * math.sqrt(share * (1 - share) / images)
