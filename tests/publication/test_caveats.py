"""Each contradiction of the paper's sources is a footnote of the claims it concerns, and of no others."""

from pipeline.publication.wide_resnet import PAPER

CLAIMS = {claim.id: claim for claim in PAPER.claims}


def numbers(claim_id: str) -> list[int]:
    return [caveat.number for caveat in PAPER.caveats_of(CLAIMS[claim_id])]


def covered(number: int) -> set[str]:
    return {claim_id for claim_id in CLAIMS if number in numbers(claim_id)}


def test_numbers_are_consecutive_and_each_covers_something() -> None:
    assert [caveat.number for caveat in PAPER.caveats] == list(range(1, len(PAPER.caveats) + 1))
    assert all(covered(caveat.number) for caveat in PAPER.caveats)


def test_contradictions_of_the_facts() -> None:
    assert covered(2) == {"3/cifar10/WRN-40-2-B(3,3)/top1_error", "4/cifar10/WRN-40-2/top1_error"}
    assert covered(3) == {
        "8/imagenet/WRN-50-2-bottleneck/top5_error",
        "9/imagenet/WRN-50-2-bottleneck/top5_error",
        "8/imagenet/pre-ResNet-200/top5_error",
    }
    assert covered(4) == {"6/svhn/WRN-52-1/top1_error"}
    assert covered(5) == {"9/coco/WRN-34-2/map"}
    assert covered(6) == {i for i in CLAIMS if i.startswith("figure-4/")}
    assert covered(7) == {f"5/cifar10/{m}-1202/params_millions" for m in ("original-ResNet", "stoc-depth")}


def test_statistic_narrows_a_footnote() -> None:
    assert covered(9) == {i for i, c in CLAIMS.items() if c.statistic == "unstated" and c.metric.endswith("_error")}
    assert covered(11) == {i for i, c in CLAIMS.items() if c.kind == "quoted"}
    # the two eras concern every error of Tables 2 to 4, and no other table
    assert covered(1) == {i for i, c in CLAIMS.items() if c.table in ("2", "3", "4") and c.metric == "top1_error"}


def test_notes_of_the_data_are_all_shown() -> None:
    """A claim with a remark in claims.csv has a footnote, but for how parameters are counted, and for gains."""
    silent = {c.note for c in CLAIMS.values() if c.note and not PAPER.caveats_of(c) and c.metric != "gain_points"}
    assert silent == {"N=(depth-4)/6 for every block type", "prose on Table 9"}
