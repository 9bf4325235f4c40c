"""What a number of runs could tell of a claim, before anything is trained: by the model that verdicts rest on."""

import functools
from dataclasses import dataclass

from pipeline.comparison.statistics import FEWEST, critical_value, paper_runs, published_spread
from pipeline.params import Plan
from pipeline.publication.claims import Claim
from pipeline.publication.protocols import protocol_of, published_images

OFTEN = 0.8
"""How often a difference of `Outlook.told` points is called better or worse."""
_DRAWS = 40_000


@dataclass(frozen=True)
class Outlook:
    """Of a claim and so many runs, if runs spread as published re-runs do (spread.yaml)."""

    runs: int
    reproduced: float
    """Probability of "reproduced" where our errors and the paper's truly are the same."""
    told: float
    """The true difference, in points, that is called better or worse in 80 of 100 cases."""


def of_claim(claim: Claim, plan: Plan, runs: int) -> Outlook | None:
    """What `runs` runs by the claim's own protocol could tell; None where it has none, or params.yaml has no margin."""
    if protocol_of(claim) is None or claim.dataset not in plan.comparison.margins:
        return None
    return outlook(
        runs,
        claim.value,
        paper_runs=paper_runs(claim),
        margin=plan.comparison.margins[claim.dataset],
        rounding=claim.rounding,
        images=published_images(claim.dataset, "test"),
    )


@functools.cache
def outlook(runs: int, published: float, *, paper_runs: int, margin: float, rounding: float, images: int) -> Outlook:
    """By simulation, to about one in a hundred; arguments as of `statistics.judge`, at least FEWEST runs."""
    import numpy as np

    if runs < FEWEST:
        raise ValueError(f"{runs} runs are never called reproduced")
    generator = np.random.default_rng([runs, paper_runs])
    spread = published_spread(published, images)
    ours = generator.standard_normal((_DRAWS, runs)) * spread
    paper = generator.standard_normal((_DRAWS, paper_runs)) * spread
    difference = np.median(ours, axis=1) - np.median(paper, axis=1)
    half_width = critical_value(runs, paper_runs) * ours.std(axis=1, ddof=1) + rounding
    reproduced = np.abs(difference) <= np.minimum(half_width, margin - half_width)
    # A true difference is called where, with the medians' own distance added, it exceeds half the interval.
    told = np.quantile(half_width - difference, OFTEN)
    return Outlook(runs, float(reproduced.mean()), float(told))
