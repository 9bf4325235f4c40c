"""The paper's protocols say what facts/paper.md says, and where each value comes from."""

import pytest

from pipeline.params import Protocol, StepSchedule
from pipeline.publication.wide_resnet import PAPER


def test_each_field_has_a_source() -> None:
    protocols = PAPER.protocols
    assert set(protocols) == {"paper-zca", "paper-meanstd", "paper-svhn", "paper-imagenet"}
    for paper in protocols.values():
        assert set(paper.sources) == set(Protocol.model_fields)
        assert all(source.strip() for source in paper.sources.values())


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
        if claim.kind != "runnable" or claim.dataset == "coco":
            assert paper is None
            continue
        assert paper is not None
        assert paper.protocol.preprocessing == claim.preprocessing
        if claim.dropout:
            assert paper.protocol.dropout == claim.dropout
        assert (paper.name == "paper-svhn") is (claim.dataset == "svhn")
        assert PAPER.images(claim.dataset, "test") > 0


def test_unstated_fields_are_marked() -> None:
    imagenet = PAPER.protocols["paper-imagenet"]
    assert [f for f in imagenet.sources if not imagenet.is_stated(f)] == [*("dropout", "processes", "batch_norm")]
    assert all(PAPER.protocols["paper-zca"].is_stated(field) for field in Protocol.model_fields)
