"""A weight that cites a measurement of ours says what the committed numbers come to."""

import csv
import re
from pathlib import Path

import numpy as np
from scipy import stats

from pipeline.publication.wide_resnet import PAPER

ROOT = Path(__file__).parents[2]


def test_bn_init_weighs_what_was_measured() -> None:
    with (ROOT / "docs/reference/bn_init.csv").open() as file:
        rows = list(csv.DictReader(file))
    errors = {value: [float(r["top1_error"]) for r in rows if r["value"] == value] for value in ("ones", "uniform")}
    assert [len(side) for side in errors.values()] == [8, 8]
    assert {(row["network"], row["protocol"], row["field"]) for row in rows} == {("WRN-16-1", "fast", "bn_init")}
    told = PAPER.weights["bn_init"]
    difference = np.mean(errors["uniform"]) - np.mean(errors["ones"])
    test = stats.ttest_ind(errors["uniform"], errors["ones"], equal_var=False)
    low, high = test.confidence_interval(0.95)
    found = re.search(r"([+-]\d\.\d\d) ± (\d\.\d\d) points", told.evidence)
    assert found is not None
    assert (float(found[1]), float(found[2])) == (round(difference, 2), round((high - low) / 2, 2))
    # Material is what moves the error by more than a third of CIFAR-10's margin.
    assert (told.weight == "material") is bool(abs(difference) > 0.1)
