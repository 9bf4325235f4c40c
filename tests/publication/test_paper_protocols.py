"""The paper's protocols say what facts/paper.md says, and where each value comes from."""

import csv
from pathlib import Path

import numpy as np
import pytest
from scipy import stats

from pipeline.params import Protocol, StepSchedule
from pipeline.publication.wide_resnet import PAPER

ROOT = Path(__file__).parents[2]


def test_each_field_has_a_source_and_what_is_unstated_is_marked() -> None:
    protocols = PAPER.protocols
    assert set(protocols) == {"paper-zca", "paper-meanstd", "paper-svhn", "paper-imagenet"}
    for paper in protocols.values():
        assert set(paper.sources) == set(Protocol.model_fields)
        assert all(source.strip() for source in paper.sources.values())
        unstated = {field for field in paper.sources if not paper.is_stated(field)}
        assert unstated == ({"dropout", "processes", "batch_norm"} if paper.name == "paper-imagenet" else set())


@pytest.mark.parametrize(
    ("name", "epochs", "rate", "drops", "factor", "dropout"),
    [
        ("paper-zca", 200, 0.1, (59, 119, 159), 0.2, 0.3),
        ("paper-meanstd", 200, 0.1, (59, 119, 159), 0.2, 0.3),
        ("paper-svhn", 160, 0.01, (79, 119), 0.1, 0.4),
        ("paper-imagenet", 90, 0.1, (30, 60), 0.1, 0.0),
    ],
)
def test_schedules(name, epochs, rate, drops, factor, dropout) -> None:
    protocol = PAPER.protocols[name].protocol
    assert isinstance(protocol.schedule, StepSchedule)
    assert (protocol.epochs, protocol.learning_rate, protocol.dropout) == (epochs, rate, dropout)
    assert (protocol.schedule.drop_after, protocol.schedule.factor) == (drops, factor)
    assert protocol.schedule.reset_momentum is (name != "paper-imagenet")
    assert protocol.precision == "fp32"


def test_the_two_eras_differ_where_the_facts_say() -> None:
    zca, meanstd = PAPER.protocols["paper-zca"].protocol, PAPER.protocols["paper-meanstd"].protocol
    different = {f for f in Protocol.model_fields if getattr(zca, f) != getattr(meanstd, f)}
    assert different == {"preprocessing", "flip", "crop", "conv_init"}


def test_every_runnable_claim_but_coco_has_a_protocol_that_fits_it() -> None:
    for claim in PAPER.claims:
        paper = PAPER.protocol_of(claim)
        assert (paper is None) is (claim.kind != "runnable" or claim.dataset == "coco")
        if paper is not None:
            assert paper.protocol.preprocessing == claim.preprocessing
            assert claim.dropout in (0, paper.protocol.dropout)
            assert (paper.name == "paper-svhn") is (claim.dataset == "svhn")
            assert PAPER.images(claim.dataset, "test") > 0


def test_bn_init_weighs_what_was_measured() -> None:
    """A weight that cites a measurement of ours says what the committed numbers come to."""
    with (ROOT / "docs/reference/bn_init.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert {(row["network"], row["protocol"], row["field"]) for row in rows} == {("WRN-16-1", "fast", "bn_init")}
    ones, uniform = (
        [float(row["top1_error"]) for row in rows if row["value"] == value] for value in ("ones", "uniform")
    )
    assert (len(ones), len(uniform)) == (8, 8)
    told, difference = PAPER.weights["bn_init"], np.mean(uniform) - np.mean(ones)
    low, high = stats.ttest_ind(uniform, ones, equal_var=False).confidence_interval(0.95)
    assert f"{difference:+.2f} ± {(high - low) / 2:.2f} points" in told.evidence
    # Material is what moves the error by more than a third of CIFAR-10's margin.
    assert (told.weight == "material") is bool(abs(difference) > 0.1)
