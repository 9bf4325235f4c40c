"""Statements about which network is better agree with the paper's own numbers, and are judged by ours."""

import csv
import io
import json
from dataclasses import replace

import numpy as np
import pytest
from made_up_runs import five

from pipeline.comparison.cells import Comparison, planned
from pipeline.comparison.orderings import Judged, Standing, in_words, judge_ordering
from pipeline.comparison.verdict_rule import Spread
from pipeline.publication.paper import Ordering
from pipeline.publication.wide_resnet import PAPER

ORDERINGS = {ordering.name: ordering for ordering in PAPER.orderings}
DROPOUT, TABLE_3 = ORDERINGS["dropout-wrn-28-10"], ORDERINGS["two-convolutions-best"]


def runs(with_dropout: list[int], without: list[int], **settings):
    settings = {"protocol": "paper-meanstd", **settings}
    return [
        *five(with_dropout, network="WRN-28-10-dropout", **settings),
        *five(without, network="WRN-28-10", **settings),
    ]


def standing(compared, results) -> Standing:
    return judge_ordering(DROPOUT, compared(results)).standing


def test_the_papers_numbers_have_the_order_it_states() -> None:
    for ordering in ORDERINGS.values():
        for lower, higher in ordering.pairs:
            assert lower.value < higher.value, f"{ordering.name}: {lower.id} {higher.id}"
            assert lower.dataset == higher.dataset
            assert lower.kind == "runnable"
            assert higher.kind in ("runnable", "quoted")


def test_a_quoted_number_stands_as_printed_for_one_run(compared) -> None:
    """A network beside WRN-50-2: 21.9 of the paper's own against 22.16 that it quotes."""
    ordering = ORDERINGS["wide-50-beats-resnet-152"]
    made = {"network": "WRN-50-2-bottleneck", "dataset": "imagenet", "protocol": "paper-imagenet"}
    for wrong, expected in ((10_700, Standing.HOLDS), (11_050, Standing.INCONCLUSIVE), (11_600, Standing.CONTRADICTED)):
        results = five([wrong - 10, wrong, wrong + 10], representation="jpeg", **made)
        judged = judge_ordering(ordering, compared(results))
        assert (judged.standing, judged.runs) == (expected, ((3, 1),))
        assert judged.differences == (pytest.approx(wrong / 500 - 22.16),)
    assert 0 < judged.power < 1


def test_dropout_is_claimed_exactly_where_table_6_shows_it() -> None:
    six = {(c.dataset, c.model): c.value for c in PAPER.chosen(["6"])}
    helps = {(d, m) for d, m in six if six.get((d, f"{m}-dropout"), np.inf) < six[d, m]}
    claimed = {
        (higher.dataset, higher.model)
        for ordering in ORDERINGS.values()
        for lower, higher in ordering.pairs
        if lower.table == "6" and lower.model == f"{higher.model}-dropout"
    }
    assert claimed == helps
    assert ("cifar10", "WRN-16-4") not in helps


def test_standings(compared, brief) -> None:
    low, high = [380, 385, 388, 390, 391], [400, 402, 405, 410, 411]
    assert standing(compared, runs(low, high)) is Standing.HOLDS
    assert standing(compared, runs(high, low)) is Standing.CONTRADICTED
    assert standing(compared, runs([390, 400, 410], [391, 399, 411])) is Standing.INCONCLUSIVE
    assert standing(compared, runs(low[:2], high[:2])) is Standing.INCONCLUSIVE, "the first look is at three"
    assert standing(compared, runs(low, high)[:5]) is Standing.NOT_RUN
    assert standing(compared, runs(low, high, protocol=brief)) is Standing.NOT_RUN
    assert judge_ordering(DROPOUT, planned(PAPER, compared([]).plan, runs(low, high))).standing is Standing.NOT_RUN


def table_3(best: list[int], others: list[int], last: list[int]):
    """Runs of all networks of Table 3, where the paper has l=2 before the three others."""
    return [
        *five(best, network="WRN-40-2"),
        *(run for name in ("3", "3,3,3") for run in five(others, network=f"WRN-40-2-B({name})")),
        *five(last, network="WRN-40-2-B(3,3,3,3)"),
    ]


def judged_by(of: Comparison, ordering: Ordering = TABLE_3) -> Judged:
    """By runs that are taken to lie apart by half the binomial standard error."""
    vars(of)["spread"] = Spread(0.5, 20)
    return judge_ordering(ordering, of)


@pytest.mark.parametrize(
    ("best", "others", "last", "standing", "p", "last_difference"),
    [
        # All pairs have to hold at the level itself, which is stricter than any one: there is nothing to correct.
        ([540, 541, 542], [562, 563, 564], [562, 563, 564], Standing.HOLDS, (0.022 / 3, 0.022), -0.22),
        ([540, 541, 542], [600, 601, 602], [540, 541, 542], Standing.INCONCLUSIVE, (0.3, 1), 0),
        ([540, 541, 542], [600, 601, 602], [], Standing.NOT_RUN, None, None),
        # A pair contradicts at its share of the level, even while another has no runs.
        ([540, 541, 542], [600, 601, 602], [518, 519, 520], Standing.INCONCLUSIVE, (0.9, 1), 0.22),
        ([540, 541, 542], [600, 601, 602], [513, 514, 515], Standing.CONTRADICTED, (0.9, 1), 0.27),
        ([540, 541, 542, 543], [], [510, 511, 512, 513], Standing.CONTRADICTED, None, 0.3),
    ],
)
def test_an_ordering_of_three_pairs(compared, best, others, last, standing, p, last_difference) -> None:
    of = compared(table_3(best, others, last))
    judged = judged_by(of)
    assert judged.standing is standing
    assert p[0] < judged.p_value < p[1] if p else judged.p_value is None
    assert judged.differences[2] == (None if last_difference is None else pytest.approx(last_difference))
    assert judged.runs == ((len(best), len(others)), (len(best), len(others)), (len(best), len(last)))
    if (judged.differences[2] or 0) > 0.2:
        alone = replace(TABLE_3, pairs=TABLE_3.pairs[-1:])
        assert judged_by(of, alone).standing is Standing.CONTRADICTED, "2.2 % is enough where an ordering has one pair"


def test_runs_between_two_looks_do_not_change_an_ordering(compared) -> None:
    three, four = runs([380, 385, 388], [400, 402, 405]), runs([380, 385, 388, 900], [400, 402, 405, 300])
    first, second = (judge_ordering(DROPOUT, compared(each)) for each in (three, four))
    assert (first.standing, first.p_value) == (second.standing, second.p_value)
    assert (first.runs, second.runs) == (((3, 3),), ((4, 4),))


def test_judged_orderings_read_back(compared) -> None:
    results = table_3([540, 541, 542], [600, 601, 602], [620, 621, 622, 623])
    judged = [judge_ordering(each, compared(results)) for each in (TABLE_3, ORDERINGS["wider-better-imagenet-34"])]
    p, counts = judged[0].p_value, "3 against 3, 3 against 3, 3 against 4"
    first, second = json.loads(in_words(judged, "json", 80))
    assert (first["ordering"], first["standing"], first["p_value"]) == (TABLE_3.name, "holds", round(p, 4))
    published = [round(low.value - high.value, 3) for low, high in TABLE_3.pairs]
    assert [(pair["published_difference"], pair["difference"], pair["runs"]) for pair in first["pairs"]] == [
        *zip(published, [-0.6, -0.6, -0.805], [[3, 3], [3, 3], [3, 4]], strict=True)
    ]
    assert (second["standing"], second["p_value"]) == ("not run", None)
    assert {pair["difference"] for pair in second["pairs"]} == {None}
    first, second = csv.DictReader(io.StringIO(in_words(judged, "csv", 80)))
    assert (first["standing"], first["p_value"], first["runs"]) == ("holds", f"{p:.4f}", counts)
    assert (second["standing"], second["p_value"]) == ("not run", "")
    lines = in_words(judged, "terminal", 80).splitlines()
    assert max(map(len, lines)) <= 80
    assert not any("|" in line for line in lines)
    assert "| holds |" in in_words(judged, "markdown", 80)
    for form in ("terminal", "markdown"):
        plain = " ".join(in_words(judged, form, 80).split())
        for said in ("holds", f"{p:.4f}", counts, *(one.ordering.text for one in judged)):
            assert said in plain
