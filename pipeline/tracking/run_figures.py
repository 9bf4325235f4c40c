"""Pictures of one run, drawn from its files: how it learned, what it confuses, how far to trust its probabilities."""

from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
import numpy.typing as npt

from pipeline.artifacts import read_predictions as read
from pipeline.data.loader import Ints

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Floats: TypeAlias = npt.NDArray[np.float64]
FEW_CLASSES = 20
"""Up to this number, a confusion matrix has room for its numbers."""
BINS = 15
"""Of the calibration diagram, as in Guo et al., "On Calibration of Modern Neural Networks", 2017."""


def draw(title: str, history: Path, predictions: Path | None = None, error: float | None = None) -> "dict[str, Figure]":
    """All figures by file name; without `predictions` and the test `error` those of a run that is not evaluated."""
    figures = {"training_curves.png": training_curves(title, history, error)}
    if predictions:
        labels, predicted, probabilities = read(predictions)
        figures["confusion_matrix.png"] = confusion_matrix(title, labels, predicted, probabilities.shape[1])
        figures["calibration.png"] = calibration(title, labels, predicted, probabilities)
    return figures


def training_curves(title: str, history: Path, test_error: float | None) -> "Figure":
    """Loss, error in percent and learning rate by epoch from history.csv, and the test error after the last epoch, of
    which history.csv may have some of earlier epochs."""
    import pandas
    from matplotlib.ticker import MaxNLocator

    rows = pandas.read_csv(history, index_col="epoch")
    style: dict[str, Any] = {"marker": "o" if len(rows) < 30 else "", "markersize": 3}
    figure = _figure(title, 3)
    columns = {"train_loss": "training loss", "train_error": "error, %", "learning_rate": "learning rate (last step)"}
    for axes, (column, label) in zip(figure.axes, columns.items(), strict=True):
        axes.plot(rows[column], label="training", **style)
        axes.set(xlabel="epoch", title=label, ylim=(0, None))
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.grid(alpha=0.3)
    if "test_error" in rows:
        figure.axes[1].plot(rows["test_error"].dropna(), label="test", **style)
    if test_error is not None:
        label = f"test, {test_error:.2f} %"
        figure.axes[1].plot(rows.index[-1], test_error, "*", markersize=12, color="C1", label=label)
    figure.axes[1].legend()
    return figure


def confusion_matrix(title: str, labels: Ints, predictions: Ints, k: int) -> "Figure":
    """Share of each true class (rows, of `k`) that is predicted as each class (columns), in percent."""
    counts = np.bincount(labels * k + predictions, minlength=k * k).reshape(k, k)
    shares = 100 * counts / np.maximum(counts.sum(1), 1)[:, None]
    wrong = np.where(np.eye(k, dtype=bool), np.nan, shares)  # else the colours would tell nothing of the errors
    most = max(float(np.nanmax(wrong)) if k > 1 else 0.0, 1e-9)
    figure = _figure(title, 1)
    (axes,) = figure.axes
    figure.colorbar(axes.imshow(wrong, cmap="Oranges", vmin=0, vmax=most), label="errors, % of the true class")
    axes.set(xlabel="predicted class", ylabel="true class", title="confusion, % of the true class")
    if k <= FEW_CLASSES:
        axes.set(xticks=range(k), yticks=range(k))
        for i, j in np.ndindex(k, k):
            text = f"{shares[i, j]:.{int(i != j)}f}"
            color = "white" if wrong[i, j] > 0.6 * most else "black"
            axes.text(j, i, text, ha="center", va="center", fontsize=7, color=color)
    return figure


def reliability(labels: Ints, predictions: Ints, probabilities: Floats) -> tuple[Ints, Floats, Floats, float]:
    """Images, mean confidence and accuracy of each of BINS equal bins of confidence; expected calibration error.

    Confidence is the probability of the predicted class. Means of empty bins are NaN. The error is the mean of
    |accuracy - confidence| over images, from 0 to 1.
    """
    confidence = probabilities[np.arange(len(labels)), predictions]
    which = np.minimum((confidence * BINS).astype(int), BINS - 1)
    counts = np.bincount(which, minlength=BINS)
    with np.errstate(invalid="ignore"):
        mean = np.bincount(which, confidence, BINS) / counts
        accuracy = np.bincount(which, labels == predictions, BINS) / counts
    return counts, mean, accuracy, float(np.nansum(counts * np.abs(accuracy - mean)) / len(labels))


def calibration(title: str, labels: Ints, predictions: Ints, probabilities: Floats) -> "Figure":
    """Accuracy against confidence, and how many images have which confidence."""
    counts, mean, accuracy, error = reliability(labels, predictions, probabilities)
    figure = _figure(title, 2)
    left, right = figure.axes
    left.plot([0, 1], [0, 1], "--", color="grey", label="perfectly calibrated")
    left.plot(mean[counts > 0], accuracy[counts > 0], marker="o", label="this run")
    left.set(xlabel="confidence", ylabel="accuracy", title=f"expected calibration error {100 * error:.2f} %")
    left.set(xlim=(0, 1), ylim=(0, 1), aspect="equal")
    left.legend(loc="upper left")
    left.grid(alpha=0.3)
    right.bar((np.arange(BINS) + 0.5) / BINS, counts, width=0.9 / BINS)
    right.set(xlabel="confidence", title="images by confidence", xlim=(0, 1))
    return figure


def _figure(title: str, columns: int) -> "Figure":
    """An empty figure of axes side by side. Not by pyplot, which keeps figures and looks for a display."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(4.5 * columns + (1.5 if columns == 1 else 0), 4.2), dpi=100, layout="constrained")
    figure.subplots(1, columns)
    figure.suptitle(title)
    return figure
