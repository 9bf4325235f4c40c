"""Pictures of one run, drawn from its files: how it learned, what it confuses, how far to trust its probabilities."""

import csv
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    from matplotlib.figure import Figure

FEW_CLASSES = 20
"""Up to so many, a confusion matrix has room for its numbers."""
BINS = 15
"""Of the calibration diagram, as in Guo et al., "On Calibration of Modern Neural Networks", 2017."""


def training_curves(title: str, history: Path, test_error: float | None) -> "Figure":
    """Loss, error in percent and learning rate by epoch from history.csv, and the test error after the last epoch, of
    which history.csv may have some of earlier epochs."""
    from matplotlib.ticker import MaxNLocator

    with history.open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    epochs = [int(row["epoch"]) for row in rows]
    figure = _figure(title, 3)
    marker = "o" if len(rows) < 30 else ""
    for axes, column, label in zip(
        figure.axes,
        ("train_loss", "train_error", "learning_rate"),
        ("training loss", "training error, %", "learning rate (last step)"),
        strict=True,
    ):
        axes.plot(epochs, [float(row[column]) for row in rows], label="training", marker=marker, markersize=3)
        axes.set(xlabel="epoch", title=label)
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.grid(alpha=0.3)
    tested = {int(row["epoch"]): float(row["test_error"]) for row in rows if row.get("test_error")}
    if tested:
        figure.axes[1].plot(list(tested), list(tested.values()), label="test", marker=marker, markersize=3)
    if test_error is not None:
        figure.axes[1].plot(epochs[-1], test_error, "*", markersize=12, color="C1", label=f"test, {test_error:.2f} %")
        figure.axes[1].set_title("error, %")
        figure.axes[1].legend()
    figure.axes[0].set_ylim(bottom=0)
    figure.axes[1].set_ylim(bottom=0)
    return figure


def confusion_matrix(title: str, labels: npt.NDArray[np.int64], predictions: npt.NDArray[np.int64], k: int) -> "Figure":
    """Share of each true class (rows, of `k`) that is predicted as each class (columns), in percent."""
    shares = 100 * confusion(labels, predictions, k) / np.maximum(np.bincount(labels, minlength=k), 1)[:, None]
    figure = _figure(title, 1)
    (axes,) = figure.axes
    wrong = shares.copy()
    np.fill_diagonal(wrong, np.nan)  # else the colours would tell nothing of the errors
    seen = np.nanmax(wrong) if k > 1 else 0.0
    picture = axes.imshow(wrong, cmap="Oranges", vmin=0, vmax=max(float(seen), 1e-9))
    figure.colorbar(picture, label="errors, % of the true class")
    axes.set(xlabel="predicted class", ylabel="true class", title="confusion, % of the true class")
    if k <= FEW_CLASSES:
        axes.set(xticks=range(k), yticks=range(k))
        for i, j in np.ndindex(k, k):
            dark = i != j and wrong[i, j] > 0.6 * seen
            text = f"{shares[i, j]:.0f}" if i == j else f"{shares[i, j]:.1f}"
            axes.text(j, i, text, ha="center", va="center", fontsize=7, color="white" if dark else "black")
    return figure


def confusion(labels: npt.NDArray[np.int64], predictions: npt.NDArray[np.int64], k: int) -> npt.NDArray[np.int64]:
    """Counts int64 [k, k] of (true class, predicted class)."""
    return np.bincount(labels * k + predictions, minlength=k * k).reshape(k, k)


def reliability(
    labels: npt.NDArray[np.int64], predictions: npt.NDArray[np.int64], probabilities: npt.NDArray[np.float64]
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.float64], npt.NDArray[np.float64], float]:
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
    error = float(np.nansum(counts * np.abs(accuracy - mean)) / len(labels))
    return counts, mean, accuracy, error


def calibration(
    title: str,
    labels: npt.NDArray[np.int64],
    predictions: npt.NDArray[np.int64],
    probabilities: npt.NDArray[np.float64],
) -> "Figure":
    """Accuracy against confidence, and how many images have which confidence."""
    counts, mean, accuracy, error = reliability(labels, predictions, probabilities)
    figure = _figure(title, 2)
    left, right = figure.axes
    left.plot([0, 1], [0, 1], "--", color="grey", label="perfectly calibrated")
    left.plot(mean[counts > 0], accuracy[counts > 0], marker="o", label="this run")
    left.set(xlabel="confidence", ylabel="accuracy", xlim=(0, 1), ylim=(0, 1), aspect="equal")
    left.set_title(f"expected calibration error {100 * error:.2f} %")
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
