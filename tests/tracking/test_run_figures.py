"""The numbers in the figures, against plain counting, and figures of real size."""

from pathlib import Path

import numpy as np
import pytest

from pipeline.tracking.run_figures import BINS, calibration, confusion_matrix, reliability, training_curves

Predicted = tuple[np.ndarray, np.ndarray, np.ndarray]


@pytest.fixture(scope="module")
def predicted() -> Predicted:
    generator = np.random.default_rng(1)
    labels = generator.integers(0, 7, 500)
    probabilities = generator.dirichlet(np.ones(7), 500)
    probabilities[:9] = np.eye(7)[labels[:9]]  # certain: confidence 1 belongs to the last bin
    return labels, probabilities.argmax(1), probabilities


def test_confusion_is_the_share_of_each_true_class(predicted: Predicted) -> None:
    labels, guesses, _ = predicted
    texts = {text.get_position(): text.get_text() for text in confusion_matrix("run", labels, guesses, 7).axes[0].texts}
    for i, j in np.ndindex(7, 7):
        share = 100 * sum(1 for pair in zip(labels, guesses, strict=True) if pair == (i, j)) / sum(labels == i)
        assert texts[j, i] == (f"{share:.0f}" if i == j else f"{share:.1f}")


def test_calibration_error_is_its_definition(predicted: Predicted) -> None:
    labels, guesses, probabilities = predicted
    counts, mean, accuracy, error = reliability(labels, guesses, probabilities)
    total = 0.0
    for k in range(BINS):
        members = [i for i in range(500) if k / BINS <= probabilities[i].max() < (k + 1) / BINS + (k == BINS - 1)]
        assert counts[k] == len(members)
        if members:
            assert mean[k] == pytest.approx(np.mean([probabilities[i].max() for i in members]))
            assert accuracy[k] == pytest.approx(np.mean([labels[i] == guesses[i] for i in members]))
            total += len(members) / 500 * abs(accuracy[k] - mean[k])
    assert error == pytest.approx(total)


def test_a_perfect_classifier_and_a_thousand_classes_can_be_drawn(tmp_path: Path) -> None:
    labels, certain = np.arange(10), np.eye(10)
    for figure in (
        confusion_matrix("perfect", labels, labels, 10),
        calibration("perfect", labels, labels, certain),
        confusion_matrix("imagenet", np.arange(1000), np.arange(1000)[::-1], 1000),
    ):
        figure.savefig(tmp_path / "figure.png")
    assert reliability(labels, labels, certain)[3] == 0


def test_the_curves_hold_the_history(tmp_path: Path) -> None:
    history = tmp_path / "history.csv"
    history.write_text("epoch,learning_rate,train_loss,train_error,test_error\n1,0.1,2.5,90,\n2,0.01,1.5,60,55.0\n")
    drawn = [
        [(list(np.atleast_1d(line.get_xdata())), list(np.atleast_1d(line.get_ydata()))) for line in axes.lines]
        for axes in training_curves("run", history, 55.0).axes
    ]
    loss, rate = [([1, 2], [2.5, 1.5])], [([1, 2], [0.1, 0.01])]
    assert drawn == [loss, [([1, 2], [90, 60]), ([2], [55]), ([2], [55])], rate]
