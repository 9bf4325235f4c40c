"""What a number of runs could tell, against verdicts on runs that are drawn by the stated model."""

from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from pipeline.comparison.power import OFTEN, Outlook, of_claim, outlook
from pipeline.comparison.statistics import Verdict, judge, published_spread
from pipeline.publication.claims import load_claims
from pipeline.runner.params_file import load

PUBLISHED, IMAGES = 4.81, 10_000


def expected(runs: int, paper_runs: int, margin: float = 0.3, rounding: float = 0.005) -> Outlook:
    return outlook(runs, PUBLISHED, paper_runs=paper_runs, margin=margin, rounding=rounding, images=IMAGES)


def verdicts(runs: int, paper_runs: int, off: float, cases: int = 3000, margin: float = 0.3) -> Counter[Verdict]:
    """Of drawn cases in which the paper's runs and ours truly are `off` points apart."""
    generator = np.random.default_rng(7)
    spread = published_spread(PUBLISHED, IMAGES)
    found: Counter[Verdict] = Counter()
    for _ in range(cases):
        truth = PUBLISHED + generator.standard_normal(paper_runs) * spread
        printed = round(float(np.median(truth)), 2)
        ours = PUBLISHED + off + generator.standard_normal(runs) * spread
        judged = judge(ours.tolist(), printed, paper_runs=paper_runs, margin=margin, rounding=0.005, images=IMAGES)
        found[judged.verdict] += 1
    return found


@pytest.mark.parametrize(("runs", "paper_runs"), [(3, 1), (5, 1), (5, 5), (20, 5)])
def test_it_is_what_verdicts_on_drawn_runs_come_to(runs: int, paper_runs: int) -> None:
    told = expected(runs, paper_runs)
    # Three standard errors of 3,000 cases.
    assert verdicts(runs, paper_runs, 0.0)[Verdict.REPRODUCED] / 3000 == pytest.approx(told.reproduced, abs=0.028)
    off = verdicts(runs, paper_runs, told.told)
    assert (off[Verdict.WORSE] + off[Verdict.BETTER]) / 3000 == pytest.approx(OFTEN, abs=0.028)


def test_more_runs_and_a_wider_margin_tell_more() -> None:
    by_runs = [expected(runs, 5) for runs in (3, 5, 10, 30)]
    assert [one.runs for one in by_runs] == [3, 5, 10, 30]
    assert sorted(one.reproduced for one in by_runs) == [one.reproduced for one in by_runs]
    assert sorted((one.told for one in by_runs), reverse=True) == [one.told for one in by_runs]
    assert expected(5, 5, margin=0.6).reproduced > expected(5, 5).reproduced > expected(5, 1).reproduced
    assert expected(5, 5, margin=0.001).reproduced == 0.0


def test_fewer_runs_than_three_have_no_outlook() -> None:
    with pytest.raises(ValueError, match="2 runs are never called reproduced"):
        expected(2, 5)


def test_a_claim_without_a_margin_or_a_protocol_has_none() -> None:
    plan = load(Path(__file__).resolve().parents[2] / "params.yaml")
    claims = {claim.id: claim for claim in load_claims()}
    assert of_claim(claims["4/cifar10/WRN-16-8/top1_error"], plan, 5)
    plan.comparison.margins.pop("cifar10")
    assert of_claim(claims["4/cifar10/WRN-16-8/top1_error"], plan, 5) is None
    (coco,) = (claim for claim in claims.values() if claim.dataset == "coco")
    assert of_claim(coco, plan, 5) is None
