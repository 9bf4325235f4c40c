"""Metrics from predictions alone where probabilities are equal or too small for float64."""

import math

import numpy as np
import pytest

from pipeline.tasks.classification import metrics


def test_a_probability_of_zero_is_a_finite_loss() -> None:
    labels, probabilities = np.array([0, 1]), np.array([[1.0, 0.0], [1.0, 0.0]])
    found = metrics(labels, probabilities.argmax(1), probabilities)
    assert (found["errors"], found["top1_error"]) == (1, 50.0)
    assert found["negative_log_likelihood"] == pytest.approx(-math.log(np.finfo(np.float64).tiny) / 2, abs=1e-6)


def test_of_equal_probabilities_the_lowest_classes_count() -> None:
    """One class has it all: of the 59 others, four count among the first five."""
    probabilities = np.zeros((60, 60))
    probabilities[:, 7] = 1
    labels = np.arange(60)
    found = metrics(labels, probabilities.argmax(1), probabilities)
    assert found["top1_error"] == pytest.approx(100 * 59 / 60, abs=1e-6)
    assert found["top5_error"] == pytest.approx(100 * 55 / 60, abs=1e-6)
