"""One run's network on the images it is evaluated on: from weights to the files of evaluations/<run>."""

import shutil
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import torch
from torch import nn

from pipeline.artifacts import (
    DIGESTS,
    METRICS,
    MODEL_FILES,
    PREDICTIONS,
    RECORD,
    WEIGHTS,
    Evaluation,
    Predictions,
    beton_of,
    read_predictions,
    read_weights,
    write_predictions,
)
from pipeline.data.loader import Ints, Loader
from pipeline.data.preprocessing import Preprocessing
from pipeline.data.sampler import held_out
from pipeline.errors import UserError
from pipeline.models.build import skeleton
from pipeline.models.names import parse
from pipeline.params import Plan
from pipeline.tasks.classification import about
from pipeline.tasks.metric import for_file
from pipeline.tasks.task import task_of
from pipeline.training import device as devices
from pipeline.training.run_digests import digests

_BATCH, _JPEG_BATCH = 500, 100
"""JPEGs are seen as 224 x 224 pixels instead of 32 x 32: their activations must fit the memory of a small machine."""


def evaluate(plan: Plan, run_id: str, trained: Path, work: Path) -> dict[str, float | int | str]:
    """Write the files of evaluations/<run_id>, from those of models/<run_id> in the folder `trained`, into the folder
    `work`; return what metrics.json says. Raises UserError for a file that is missing or broken."""
    for name in MODEL_FILES:
        if not (trained / name).is_file():
            remedy = f"wrn-pipe repro train@{run_id}, or dvc pull if a remote is set up"
            raise UserError(f"{trained / name} not found", remedy)
    weights = read_weights(trained / WEIGHTS)
    device, task, path = devices.choose(plan.device), task_of(plan, run_id), work / PREDICTIONS
    devices.prepare(device)
    samples, predict = predictor(plan, run_id, device)
    write_predictions(path, samples, predict(weights))
    values = about(plan, run_id) | for_file(task.score(read_predictions(path)))
    Evaluation.model_validate(values).write(work / METRICS)
    shutil.copyfile(trained / RECORD, work / RECORD)
    digests(run_id, trained, work, beton_of(plan.run(run_id)), devices.facts(device)).write(work / DIGESTS)
    return values


def predictor(plan: Plan, run_id: str, device: torch.device) -> tuple[Ints, Callable[..., Predictions]]:
    """The images that a run is evaluated on, of the test split or held out from training, and what predicts them.

    Call it with weights, and `shown=False` for no progress. It may be called again with other weights.
    """
    run, task = plan.run(run_id), task_of(plan, run_id)
    protocol = plan.protocols[run.protocol]
    batch = _JPEG_BATCH if run.representation == "jpeg" else _BATCH
    loader = Loader(beton_of(run), "train" if protocol.holdout else "test", batch, plan.loading.backend)
    samples = held_out(loader.samples, protocol.holdout) if protocol.holdout else np.arange(loader.samples)
    preprocessing = Preprocessing(protocol.preprocessing).to(device)

    def predict(weights: Mapping[str, torch.Tensor], shown: bool = True) -> Predictions:
        model = _network(run.network, plan.datasets[run.dataset].classes, weights).to(device)
        return task.predict(model.to(memory_format=torch.channels_last), loader, preprocessing, device, samples, shown)

    return samples, predict


def _network(name: str, classes: int, weights: Mapping[str, torch.Tensor]) -> nn.Module:
    model = skeleton(parse(name), classes)
    try:
        model.load_state_dict(weights, assign=True)
    except RuntimeError as error:
        what = " ".join(str(error).split())[:200]
        raise UserError(f"the weights are not those of {name}: {what}", "dvc checkout, or train it again") from None
    return model
