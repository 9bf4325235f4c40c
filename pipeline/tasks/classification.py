"""Errors of a classifier, from its predictions alone."""

import math

import numpy as np
import numpy.typing as npt

from pipeline.params import Plan


def metrics(
    labels: npt.NDArray[np.int64], predictions: npt.NDArray[np.int64], probabilities: npt.NDArray[np.float64]
) -> dict[str, float | int]:
    """top1_error and its binomial standard_error in percent, errors and n in images, negative_log_likelihood in nats.

    top5_error as well where there are at least ten times as many classes as that.
    """
    n, classes = probabilities.shape
    # A diverged network may give the true class a probability that float64 can not hold: it counts as 708 nats.
    true = np.maximum(probabilities[np.arange(n), labels], np.finfo(np.float64).tiny)
    errors = int((labels != predictions).sum())
    rate = errors / n
    values: dict[str, float | int] = {
        "n": n,
        "errors": errors,
        "top1_error": round(100 * rate, 6),
        "standard_error": round(100 * math.sqrt(rate * (1 - rate) / n), 6),
        "negative_log_likelihood": round(float(-np.log(true).mean()), 6),
    }
    if classes >= 50:
        top5 = np.argsort(-probabilities, axis=1, kind="stable")[:, :5]  # of equals the lowest, as the prediction is
        values["top5_error"] = round(100 * (1 - float((top5 == labels[:, None]).any(1).mean())), 6)
    return values


def about(plan: Plan, run_id: str) -> dict[str, float | int | str]:
    """What metrics.json says besides the metrics: of which run they are, and on which images."""
    run = plan.run(run_id)
    split = "held-out" if plan.protocols[run.protocol].holdout else "test"
    return {"run": run_id, "dataset": run.dataset, "network": run.network, "split": split}
