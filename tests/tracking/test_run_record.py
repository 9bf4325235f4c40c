"""What a run's page in MLflow says about the paper: which claims it answers, and how it counts for each."""

from collections.abc import Sequence

from made_up_runs import changed, five, plan_text, result

from pipeline.comparison.cells import Comparison
from pipeline.comparison.results import Result
from pipeline.params import PARAMS
from pipeline.publication.wide_resnet import PAPER
from pipeline.runner.params_file import parse_plan
from pipeline.tracking.run_record import NO_CLAIM, claims_for, judged, table_tag

NEAR = [540, 548, 541, 545, 543]  # WRN-40-2: Table 3 prints 5.43, Table 4 5.33


def answered(run: str, results: Sequence[Result]) -> tuple[str, str]:
    """Tag and note of one of these runs."""
    one = next(each for each in results if each.run == run)
    claims = claims_for(one.record.network, one.record.dataset, PAPER)
    return judged(run, claims, Comparison(PAPER, parse_plan(plan_text(results), PARAMS), results))


def test_a_training_answers_the_errors_of_its_network_on_its_dataset() -> None:
    claims = claims_for("WRN-40-2-B(3,3)", "cifar10", PAPER)
    assert {claim.id for claim in claims} == {
        "3/cifar10/WRN-40-2-B(3,3)/top1_error",
        "4/cifar10/WRN-40-2/top1_error",
    }
    assert [claim.id for claim in claims] == [claim.id for claim in claims_for("WRN-40-2", "cifar10", PAPER)]
    assert table_tag(claims) == "3 4"
    assert [claim.id for claim in claims_for("WRN-40-2", "cifar100", PAPER)] == ["4/cifar100/WRN-40-2/top1_error"]
    assert claims_for("WRN-10-1", "cifar10", PAPER) == []
    assert table_tag([]) == NO_CLAIM
    twice = claims_for("WRN-50-2-bottleneck", "imagenet", PAPER)  # top-1 and top-5 errors
    assert table_tag(twice).split() == sorted(set(table_tag(twice).split()))


def test_a_run_that_counts_has_the_verdict_of_its_claims() -> None:
    runs = five(NEAR, network="WRN-40-2-B(3)")
    tag, note = answered(runs[0].run, runs)
    assert tag == "better"
    assert "**better" in note
    assert "Table 3, WRN-40-2-B(3) on CIFAR-10" in note
    assert "ours 5.43 (n=5)" in note
    assert "left out" not in note
    assert "- device: NVIDIA H200 instead of NVIDIA Titan X (rounding only)" in note


def test_a_run_that_is_left_out_says_why() -> None:
    runs = five(NEAR, network="WRN-40-2")
    again = result(900, network="WRN-40-2", seed=1, run="again", protocol=changed("paper-zca", precision="bf16"))
    longer = result(900, network="WRN-40-2", seed=9, run="longer", protocol=changed("paper-zca", epochs=300))
    results = [again, longer, *runs]
    for run, reason in (("again", "its seed is counted already"), ("longer", "not comparable")):
        tag, note = answered(run, results)
        assert tag == f"left out ({reason})"
        assert f"This run is left out: {reason}." in note
        assert "Differs from" not in note
    tag, note = answered(runs[0].run, results)
    assert "left out" not in tag + note


def test_a_run_without_a_claim_says_so() -> None:
    run = result(900, network="WRN-10-1")
    tag, note = answered(run.run, [run])
    assert tag == NO_CLAIM
    assert "prints no number" in note
