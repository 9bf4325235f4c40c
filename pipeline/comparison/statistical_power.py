"""Operating characteristics: what a number of runs could tell of a claim or an ordering, before anything is trained.

By simulation of the rule in verdict_rule.py with normal errors, each cell alone: its runs and the published prior.
Probabilities are exact to about one in a hundred.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from pipeline.comparison.verdict_rule import DIFFERS, SIDE, Spread, look_at, paper_variance, student
from pipeline.params import Plan
from pipeline.publication.claims import Claim
from pipeline.publication.paper import Paper

_DRAWS = 20_000


@dataclass(frozen=True)
class Outlook:
    """Of a claim and a number of runs, if runs spread as the published re-runs do (spread.yaml)."""

    runs: int
    margin: float
    """Points of error that still are "the same"."""
    reproduced: float
    """Probability of "reproduced" where our errors and the paper's truly are the same."""
    differs_one: float
    """Probability of "better" or "worse" where they truly are one margin apart."""
    differs_two: float
    """The same at two margins."""

    def __str__(self) -> str:
        return (
            f"if the number holds, {self.runs} runs say reproduced in {100 * self.reproduced:.0f} of 100 cases; if it "
            f"is one margin ({self.margin:g} points) off, they say better or worse in {100 * self.differs_one:.0f}, "
            f"two margins off in {100 * self.differs_two:.0f}"
        )


def of_claim(claim: Claim, plan: Plan, runs: int, paper: Paper) -> Outlook | None:
    """What `runs` runs by the claim's own protocol could tell at the last look that they reach.

    None where it has no protocol, params.yaml has no margin, or there are fewer runs than the first look's.
    """
    n, margin = look_at(runs), plan.comparison.margins.get(claim.dataset)
    if paper.protocol_of(claim) is None or margin is None or not n:
        return None
    prior, variance = Spread.published(paper), paper_variance(claim)
    sd, freedom = prior.sd(claim.value, paper.images(claim.dataset, "test")), prior.freedom + n - 1
    generator = np.random.default_rng(n)
    draws = generator.standard_normal((_DRAWS, n)) * sd
    means, squares = draws.mean(axis=1), ((draws - draws.mean(axis=1, keepdims=True)) ** 2).sum(axis=1)
    estimate = np.sqrt((prior.freedom * sd**2 + squares) / freedom)  # pooled with the prior
    same = means - generator.standard_normal(_DRAWS) * sd * math.sqrt(variance)
    half_width = student(1 - SIDE, freedom) * estimate / math.sqrt(n) + claim.rounding
    reach = student(1 - DIFFERS / 2, freedom) * estimate * math.sqrt(1 / n + variance) + claim.rounding
    reproduced = float((np.abs(same) + half_width <= margin).mean())
    one, two = (float((np.abs(same + off) > np.maximum(margin, reach)).mean()) for off in (margin, 2 * margin))
    return Outlook(runs, margin, reproduced, one, two)


def of_ordering(pairs: Sequence[tuple[Claim, Claim]], runs: int, paper: Paper) -> float:
    """Probability that `runs` runs of each network say that an ordering holds, if the printed numbers are true.

    All of its pairs have to hold. A quoted number stands as printed, and is judged as one run's. The spread is that of
    the published re-runs. 0 below the first look.
    """
    n = look_at(runs)
    if not n:
        return 0.0
    claims = list(dict.fromkeys(claim for pair in pairs for claim in pair))
    prior = Spread.published(paper)
    generator = np.random.default_rng(n)
    size = {claim: 1 if claim.kind == "quoted" else n for claim in claims}
    added = sum(size.values()) - len(claims)
    freedom = prior.freedom + added
    # Squares of all runs within their cells, in units of each cell's own variance.
    within = generator.chisquare(added, _DRAWS)
    estimate = np.sqrt((prior.freedom + within) / freedom)
    sds = {claim: prior.sd(claim.value, paper.images(claim.dataset, "test")) for claim in claims}
    means = {}
    for claim in claims:
        noise = 0 if claim.kind == "quoted" else generator.standard_normal(_DRAWS) * sds[claim] / math.sqrt(n)
        means[claim] = claim.value + noise
    limit = student(1 - DIFFERS, freedom)
    held = np.ones(_DRAWS, dtype=bool)
    for lower, higher in pairs:
        error = estimate * math.sqrt(sds[lower] ** 2 / size[lower] + sds[higher] ** 2 / size[higher])
        held &= means[higher] - means[lower] >= limit * error
    return float(held.mean())
