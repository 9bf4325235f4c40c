"""Trainings of the product, step by step, against the reference: learning rates, outputs, losses, errors, weights.

Both compute in float64, so that what differs is the algorithm and not rounding, on any processor. In float32 rounding
moves an activation across ReLU's kink every few steps, and what that does grows to a hundredth of a weight.
"""

from pathlib import Path
from typing import Any

import pytest
import recipe
import torch
from product import NOVEMBER_2016, ONE_CYCLE, SEED, STEP, Trained, plan_of, trained_in_float64

FEW = 260 - 14
"""To hold out: three mini-batches of 4 are left, and a rest of 2."""
TOLERANCE = 1e-9
"""Of the largest number of a tensor. float64 rounds by 1e-16, sums of some thousand numbers by 1e-14, and 30 steps let
that grow a hundredfold at most. The least of the faults that are to be seen makes 1e-4."""

FEW_HELD_OUT = {**NOVEMBER_2016, "holdout": FEW}
MAY_2016 = {**FEW_HELD_OUT, "flip": "half-batch", "crop": "per-batch", "conv_init": "fan_out"}
QUICK = {**FEW_HELD_OUT, "schedule": ONE_CYCLE, "label_smoothing": 0.1, "conv_init": "fan_out", "bn_init": "ones"}
AVERAGE = {"decay": 0.75, "every": 4}
STEP_AN_EPOCH = {"epochs": 30, "holdout": 260 - 4}
"""Of which history tells what each step did."""
VARIANTS: dict[str, tuple[dict[str, Any], str]] = {
    "May 2016": (MAY_2016, "WRN-10-1"),
    "May 2016, a step an epoch": ({**MAY_2016, **STEP_AN_EPOCH}, "WRN-10-1"),
    "November 2016, dropout": (FEW_HELD_OUT, "WRN-10-1-dropout"),
    "momentum is kept at the drops": ({**MAY_2016, "schedule": {**STEP, "reset_momentum": False}}, "WRN-10-1"),
    "no augmentation, plain momentum": (
        {**FEW_HELD_OUT, "preprocessing": "unit", "flip": "none", "crop": "none", "nesterov": False},
        "WRN-10-1",
    ),
    "one cycle, a step an epoch": ({**QUICK, **STEP_AN_EPOCH}, "WRN-10-1"),
    "one cycle, average": ({**QUICK, "weight_average": AVERAGE}, "WRN-10-1"),
    "last mini-batch kept": ({**QUICK, "epochs": 8, "drop_last": False}, "WRN-10-1"),
    "nothing held out": ({**QUICK, "epochs": 1, "batch_size": 8, "holdout": 0}, "WRN-10-1"),
}


@pytest.fixture(autouse=True)
def in_project(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(project)


def reference(protocol: dict[str, Any], network: str, images: recipe.Split) -> list[recipe.Epoch]:
    dropout = protocol["dropout"] if network.endswith("-dropout") else 0.0
    return recipe.train(protocol, 10, 1, SEED, images, dropout)


def apart(found: dict[str, torch.Tensor], expected: dict[str, torch.Tensor]) -> float:
    """The largest difference of a number, as a share of the largest of its tensor."""
    assert found.keys() == expected.keys()
    return max(
        float((found[name] - value).abs().max() / value.abs().max().clamp(min=1e-3)) for name, value in expected.items()
    )


def compare(found: Trained, expected: list[recipe.Epoch], first_step: int = 0) -> None:
    """From the step on with which this attempt began."""
    first_epoch = len(expected) - len(found.rows)
    logits = [step for epoch in expected for step in epoch.logits]
    assert len(found.logits) == len(logits) - first_step
    for step, (ours, theirs) in enumerate(zip(found.logits, logits[first_step:], strict=True), start=first_step):
        assert ours.shape == theirs.shape
        assert apart({"": ours}, {"": theirs}) < TOLERANCE, f"outputs in step {step}, from 0"
    assert found.history is not None
    assert found.history[first_epoch:] == found.rows
    for row, epoch in zip(found.history, expected, strict=True):
        assert row.learning_rate == pytest.approx(epoch.rates[-1], rel=1e-12)
        assert row.train_loss == pytest.approx(epoch.loss, rel=TOLERANCE)
        assert row.train_error == pytest.approx(epoch.error, abs=1e-9)
    for number, (state, epoch) in enumerate(zip(found.states, expected[first_epoch:], strict=True), first_epoch + 1):
        assert apart(state, epoch.state) < TOLERANCE, f"weights and statistics after epoch {number}"
    assert apart(found.final, expected[-1].published) < TOLERANCE


@pytest.mark.parametrize("variant", VARIANTS)
def test_thirty_steps(variant: str, tiny: dict[str, recipe.Split], dataset: dict[str, Any], tmp_path: Path) -> None:
    protocol, network = VARIANTS[variant]
    expected = reference(protocol, network, tiny["train"])
    assert sum(len(epoch.rates) for epoch in expected) >= 30
    compare(trained_in_float64(plan_of(dataset, network, protocol), tmp_path / "scratch"), expected)


@pytest.mark.parametrize("stop_in", [6, 8])
def test_stopped_and_resumed_is_as_never_stopped(
    stop_in: int, tiny: dict[str, recipe.Split], dataset: dict[str, Any], tmp_path: Path
) -> None:
    """After two epochs of three steps, or amid the third: another attempt goes on with the step after, with momentum,
    average, sums of the epoch under way and dropout's masks as they were to be."""
    protocol = {**FEW_HELD_OUT, "epochs": 4, "schedule": ONE_CYCLE, "weight_average": AVERAGE}
    plan = plan_of(dataset, "WRN-10-1-dropout", protocol)
    begun = trained_in_float64(plan, tmp_path / "scratch", stop_in)
    assert (len(begun.logits), begun.history) == (stop_in, None)
    compare(
        trained_in_float64(plan, tmp_path / "scratch"),
        reference(protocol, "WRN-10-1-dropout", tiny["train"]),
        first_step=stop_in,
    )
