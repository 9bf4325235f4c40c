"""Every number of the paper is there, typed, accounted for, and has its footnotes and a protocol with its sources."""

import csv
import shutil
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from pipeline.errors import UserError
from pipeline.params import Protocol, StepSchedule
from pipeline.publication.claims import read_claims
from pipeline.publication.wide_resnet import PAPER

ROOT = Path(__file__).parents[2]
CLAIMS = {claim.id: claim for claim in PAPER.claims}
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
    found = {table: Counter(c.kind for c in PAPER.claims if c.table == table) for table in PAPER.tables}
    assert found == ACCOUNT
    assert len(PAPER.claims) == 177


def test_numbers_stay_as_printed() -> None:
    claim = CLAIMS["4/cifar100/WRN-28-10/top1_error"]
    assert (claim.text, claim.value, claim.decimals, claim.rounding) == ("20.50", 20.5, 2, pytest.approx(0.005))
    assert (claim.dropout, claim.preprocessing, claim.statistic) == (0.0, "zca", "unstated")
    networks = {claim.model: claim.network for claim in PAPER.claims}
    assert networks["WRN-40-2-B(3,3)"] == networks["WRN-40-2"] == "WRN-40-2", "two spellings of a network are one"
    assert networks["NIN"] == "NIN"


def test_rows_keep_the_papers_order() -> None:
    assert list(dict.fromkeys(claim.model for claim in PAPER.chosen(["4"]))) == [
        *("WRN-40-1", "WRN-40-2", "WRN-40-4", "WRN-40-8", "WRN-28-10"),
        *("WRN-28-12", "WRN-22-8", "WRN-22-10", "WRN-16-8", "WRN-16-10"),
    ]


@pytest.mark.parametrize(
    "change",
    [
        lambda frame: frame.drop(columns="block"),
        lambda frame: frame.assign(page="1"),
        lambda frame: frame[[*frame.columns[1:], frame.columns[0]]],
        lambda frame: frame.assign(dataset=frame["dataset"].replace("svhn", "mnist")),
        lambda frame: frame.assign(metric=frame["metric"].replace("map", "mean_precision")),
        lambda frame: frame.assign(value=frame["value"].replace("6.06", "6,06")),
        lambda frame: frame.assign(statistic=frame["statistic"].replace("single", "best")),
        lambda frame: pd.concat([frame, frame.tail(1)], ignore_index=True),
    ],
    ids=["dropped", "added", "moved", "dataset", "metric", "number", "statistic", "twice"],
)
def test_a_changed_file_is_refused(change, tmp_path) -> None:
    frame = pd.read_csv(PAPER.folder / "claims.csv", dtype=str, keep_default_na=False)
    changed = tmp_path / "claims.csv"
    change(frame).to_csv(changed, index=False)
    with pytest.raises(UserError, match=r"claims\.csv: "):
        read_claims(changed, PAPER.tables, PAPER.datasets, PAPER.metrics)


@pytest.mark.parametrize(
    ("file", "old", "new", "said"),
    [
        ("protocols.yaml", "crop: [per-batch,", "crop: [per-bach,", r"paper-zca: crop: .*'per-batch'"),
        ("protocols.yaml", "    crop: [per-batch,", "    crap: [per-batch,", r"paper-zca lacks 'crop'\n.*mean crap"),
        ("protocols.yaml", "  paper-zca:", "  paper-zcb:", r"no protocol 'paper-zca'\n.*mean paper-zcb"),
        ("claims.csv", "3-3,0,zca,top1_error,6.85", "3-3,0,,top1_error,6.85", r"no protocol 'for preprocessing None'"),
        ("orderings.yaml", "4/cifar10/WRN-40-8]", "4/cifar10/WRN-40-9]", r"no error of '4/cifar10/WRN-40-9'\n.*mean"),
    ],
)
def test_what_a_file_of_the_paper_names_wrong_is_told(file, old, new, said, tmp_path) -> None:
    shutil.copytree(PAPER.folder, tmp_path, dirs_exist_ok=True)
    text = (tmp_path / file).read_text()
    assert old in text
    (tmp_path / file).write_text(text.replace(old, new, 1))
    paper = replace(PAPER, folder=tmp_path)
    with pytest.raises(UserError, match=said):
        _ = paper.orderings, [paper.protocol_of(claim) for claim in paper.claims]


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
        (["6"], "svhn", "WRN-28-10", "WRN-52-1"),
        (list(PAPER.tables), "cifar1000", None, "cifar100"),
        (["4"], "cifar100", "WRN-28-10", None),
        (["3"], "cifar10", "WRN-40-2", None),
        (["3"], None, "WRN-40-2-B(3,3)", None),
        (list(PAPER.tables), None, None, None),
    ],
)
def test_a_filter_takes_either_spelling_and_has_to_leave_something(tables, dataset, row, nearest) -> None:
    if nearest is None:
        assert PAPER.chosen(tables, dataset, row)
        return
    with pytest.raises(UserError) as refused:
        PAPER.chosen(tables, dataset, row)
    assert nearest in refused.value.remedy


def test_each_contradiction_is_a_footnote_of_the_claims_it_concerns() -> None:
    covered = {each.number: {i for i, claim in CLAIMS.items() if each.covers(claim)} for each in PAPER.caveats}
    assert list(covered) == list(range(1, len(covered) + 1))
    assert all(covered.values())
    # the two eras concern every error of Tables 2 to 4, and no other table
    assert covered[1] == {i for i, c in CLAIMS.items() if c.table in ("2", "3", "4") and c.metric == "top1_error"}
    assert covered[2] == {"3/cifar10/WRN-40-2-B(3,3)/top1_error", "4/cifar10/WRN-40-2/top1_error"}
    wide = "imagenet/WRN-50-2-bottleneck/top5_error"
    assert covered[3] == {f"8/{wide}", f"9/{wide}", "8/imagenet/pre-ResNet-200/top5_error"}
    assert covered[4] == {"6/svhn/WRN-52-1/top1_error"}
    assert covered[5] == {"9/coco/WRN-34-2/map"}
    assert covered[6] == {i for i in CLAIMS if i.startswith("figure-4/")}
    assert covered[7] == {f"5/cifar10/{m}-1202/params_millions" for m in ("original-ResNet", "stoc-depth")}
    assert covered[9] == {i for i, c in CLAIMS.items() if c.statistic == "unstated" and c.metric.endswith("_error")}
    assert covered[11] == {i for i, c in CLAIMS.items() if c.kind == "quoted"}
    # a remark in claims.csv has a footnote, but for how parameters are counted, and for gains
    noted = set().union(*covered.values())
    silent = {c.note for i, c in CLAIMS.items() if c.note and i not in noted and c.metric != "gain_points"}
    assert silent == {"N=(depth-4)/6 for every block type", "prose on Table 9"}


@pytest.mark.parametrize(
    ("name", "epochs", "rate", "drops", "factor", "dropout", "unstated"),
    [
        ("paper-zca", 200, 0.1, (59, 119, 159), 0.2, 0.3, set()),
        ("paper-meanstd", 200, 0.1, (59, 119, 159), 0.2, 0.3, set()),
        ("paper-svhn", 160, 0.01, (79, 119), 0.1, 0.4, set()),
        ("paper-imagenet", 90, 0.1, (30, 60), 0.1, 0.0, {"dropout", "processes", "batch_norm"}),
    ],
)
def test_protocols_and_their_sources(name, epochs, rate, drops, factor, dropout, unstated) -> None:
    protocol, sources = PAPER.protocols[name].protocol, PAPER.protocols[name].sources
    assert isinstance(protocol.schedule, StepSchedule)
    assert (protocol.epochs, protocol.learning_rate, protocol.dropout) == (epochs, rate, dropout)
    assert (protocol.schedule.drop_after, protocol.schedule.factor) == (drops, factor)
    assert protocol.schedule.reset_momentum is (name != "paper-imagenet")
    assert protocol.precision == "fp32"
    assert set(sources) == set(Protocol.model_fields)
    assert all(source.strip() for source in sources.values())
    assert {field for field, source in sources.items() if source.startswith("unstated")} == unstated


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
