"""Learning rates against the paper's recipe and the definition of one cycle."""

from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.params import Protocol
from pipeline.runner.params_file import load
from pipeline.training.schedule import learning_rate, resets_momentum

PLAN = load(Path(__file__).resolve().parents[2] / "params.yaml")
PAPER, QUICK = PLAN.protocols["paper-meanstd"], PLAN.protocols["quick"]


def test_the_papers_rates_drop_at_the_start_of_its_epochs_60_120_and_160() -> None:
    """Paper, section 3: 0.1, times 0.2 at 60, 120 and 160; the authors' epochs count from 1."""
    rates = [learning_rate(PAPER, epoch, 0, 390) for epoch in range(200)]
    assert rates == [learning_rate(PAPER, epoch, 389, 390) for epoch in range(200)]
    expected = [0.1] * 59 + [0.02] * 60 + [0.004] * 40 + [0.0008] * 41
    assert rates == pytest.approx(expected, rel=1e-12)
    assert [epoch for epoch in range(200) if resets_momentum(PAPER, epoch)] == [59, 119, 159]


@given(st.integers(1, 30), st.integers(2, 400), st.floats(0.05, 0.95), st.floats(0.01, 0.9))
def test_one_cycle_rises_to_the_peak_and_falls_to_zero(epochs: int, steps: int, warmup: float, start: float) -> None:
    schedule = {"kind": "one-cycle", "warmup_fraction": warmup, "start_factor": start}
    protocol = Protocol.model_validate({**QUICK.model_dump(), "epochs": epochs, "schedule": schedule})
    rates = [learning_rate(protocol, epoch, step, steps) for epoch in range(epochs) for step in range(steps)]
    peak = max(range(len(rates)), key=rates.__getitem__)
    assert rates[0] == pytest.approx(start * protocol.learning_rate)
    assert all(a <= b for a, b in pairwise(rates[: peak + 1]))
    assert all(a >= b for a, b in pairwise(rates[peak:]))
    assert abs(peak - warmup * len(rates)) <= 1
    assert 0 < rates[-1] <= protocol.learning_rate
    assert rates[-1] <= protocol.learning_rate / ((1 - warmup) * len(rates)) * (1 + 1e-9)
    assert not any(resets_momentum(protocol, epoch) for epoch in range(epochs))
