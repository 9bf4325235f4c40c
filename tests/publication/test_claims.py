"""Every number of the paper is there, typed, and accounted for."""

from pathlib import Path

import pandas as pd
import pytest

from pipeline.errors import UserError
from pipeline.publication.claims import read_claims
from pipeline.publication.wide_resnet import PAPER

ACCOUNT = {
    "2": {"runnable": 6, "count": 6, "timing": 6},
    "3": {"runnable": 4, "count": 4},
    "4": {"runnable": 19, "count": 10},
    "5": {"runnable": 6, "count": 3, "quoted": 30},
    "6": {"runnable": 16},
    "7": {"runnable": 14, "count": 7},
    "8": {"runnable": 2, "count": 1, "timing": 5, "quoted": 12},
    "9": {"runnable": 6},
    "text": {"runnable": 1, "count": 1, "derived": 8},
    "figure-4": {"timing": 5, "derived": 5},
}
"""How many numbers of each kind every table has."""


def test_all_numbers_are_accounted_for() -> None:
    found: dict[str, dict[str, int]] = {table: {} for table in PAPER.tables}
    for claim in PAPER.claims:
        found[claim.table][claim.kind] = found[claim.table].get(claim.kind, 0) + 1
    assert found == ACCOUNT
    assert sum(sum(kinds.values()) for kinds in ACCOUNT.values()) == len(PAPER.claims) == 177


def test_numbers_stay_as_printed() -> None:
    claim = next(claim for claim in PAPER.claims if claim.id == "4/cifar100/WRN-28-10/top1_error")
    assert (claim.text, claim.value, claim.decimals, claim.rounding) == ("20.50", 20.5, 2, pytest.approx(0.005))
    assert (claim.depth, claim.widen, claim.dropout, claim.statistic) == (28, 10.0, 0.0, "unstated")
    with pytest.raises(AttributeError):
        claim.text = "0"


def test_two_spellings_of_a_network_are_one() -> None:
    networks = {claim.model: claim.network for claim in PAPER.claims}
    assert networks["WRN-40-2-B(3,3)"] == networks["WRN-40-2"] == "WRN-40-2"
    assert networks["NIN"] == "NIN"


def test_rows_keep_the_papers_order() -> None:
    models = list(dict.fromkeys(claim.model for claim in PAPER.claims_of("table-4")))
    assert models == [
        *("WRN-40-1", "WRN-40-2", "WRN-40-4", "WRN-40-8", "WRN-28-10"),
        *("WRN-28-12", "WRN-22-8", "WRN-22-10", "WRN-16-8", "WRN-16-10"),
    ]


@pytest.mark.parametrize(
    "change",
    [
        lambda frame: frame.rename(columns={"note": "remark"}),
        lambda frame: frame.drop(columns="block"),
        lambda frame: frame.assign(page="1"),
        lambda frame: frame[[*frame.columns[1:], frame.columns[0]]],
        lambda frame: frame.assign(dataset=frame["dataset"].replace("svhn", "mnist")),
        lambda frame: frame.assign(metric=frame["metric"].replace("map", "mean_precision")),
        lambda frame: frame.assign(value=frame["value"].replace("6.06", "6,06")),
        lambda frame: frame.assign(statistic=frame["statistic"].replace("single", "best")),
        lambda frame: pd.concat([frame, frame.tail(1)], ignore_index=True),
    ],
    ids=["renamed", "dropped", "added", "moved", "dataset", "metric", "number", "statistic", "twice"],
)
def test_a_changed_file_is_refused(change, tmp_path: Path) -> None:
    frame = pd.read_csv(PAPER.folder / "claims.csv", dtype=str, keep_default_na=False)
    changed = tmp_path / "claims.csv"
    change(frame).to_csv(changed, index=False)
    with pytest.raises(UserError, match=r"claims\.csv: "):
        read_claims(changed, PAPER.tables, PAPER.datasets)


def test_names_of_tables_and_which_of_them_can_be_trained() -> None:
    assert PAPER.table_name("Table 4") == PAPER.table_name("table-4") == "4"
    with pytest.raises(UserError) as caught:
        PAPER.table_name("figure-5")
    assert "figure-4" in caught.value.remedy
    assert PAPER.table_names("all") == list(PAPER.tables)
    assert PAPER.table_names("table 4") == ["4"]
    assert PAPER.trainable_tables == "2, 3, 4, 5, 6, 7, 8, 9, text, or all"


@pytest.mark.parametrize(
    ("tables", "dataset", "row", "nearest"),
    [
        (["4"], "svhn", None, "cifar100"),
        (["4"], None, "WRN-40-11", "WRN-40-1"),
        (["6"], "svhn", "WRN-52-10", "WRN-52-1"),
        (["6"], "svhn", "WRN-28-10", "WRN-52-1"),
        (list(PAPER.tables), "cifar1000", None, "cifar100"),
    ],
)
def test_a_filter_that_leaves_nothing_is_refused(tables, dataset, row, nearest) -> None:
    with pytest.raises(UserError) as refused:
        PAPER.chosen(tables, dataset, row)
    assert nearest in refused.value.remedy


def test_a_filter_by_either_spelling_is_taken() -> None:
    for tables, dataset, row in (
        (["4"], "cifar100", "WRN-28-10"),
        (["3"], "cifar10", "WRN-40-2"),
        (["3"], None, "WRN-40-2-B(3,3)"),
        (["6"], "svhn", "WRN-16-4-dropout"),
        (list(PAPER.tables), None, None),
    ):
        assert PAPER.chosen(tables, dataset, row)
