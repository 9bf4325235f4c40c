"""One run's network on the images it is evaluated on: from weights to the files of evaluations/<run>."""

import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import nullcontext
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from pipeline import artifacts
from pipeline.artifacts import Digests, Evaluation, Predictions, beton_of
from pipeline.data.batches import Preprocessing
from pipeline.data.beton import content, open_card, sha256
from pipeline.data.loader import Loader
from pipeline.data.sampler import Ints, held_out
from pipeline.dataset_config import SPLITS
from pipeline.errors import UserError
from pipeline.models.names import parse
from pipeline.models.resnet import skeleton
from pipeline.params import Plan
from pipeline.progress import progress
from pipeline.tasks.task import about, for_file, task_of
from pipeline.training import device as devices

_BATCH, _JPEG_BATCH = 500, 100
"""JPEGs are seen as 224 x 224 pixels instead of 32 x 32: their activations must fit the memory of a small machine."""


def evaluate(plan: Plan, run_id: str, trained: Path, work: Path) -> dict[str, float | int | str]:
    """Write the files of evaluations/<run_id>, from those of models/<run_id> in the folder `trained`, into the folder
    `work`; return what metrics.json says. Raises UserError for a file that is missing or broken."""
    for name in artifacts.MODEL_FILES:
        if not (trained / name).is_file():
            remedy = f"wrn-pipe repro train@{run_id}, or dvc pull if a remote is set up"
            raise UserError(f"{trained / name} not found", remedy)
    weights = artifacts.read_weights(trained / artifacts.WEIGHTS)
    device, task, path = devices.choose(plan.device), task_of(plan, run_id), work / artifacts.PREDICTIONS
    devices.prepare(device)
    samples, predict = predictor(plan, run_id, device)
    artifacts.write_predictions(path, samples, predict(weights))
    values = about(plan, run_id) | for_file(task.score(artifacts.read_predictions(path)))
    Evaluation.model_validate(values).write(work / artifacts.METRICS)
    shutil.copyfile(trained / artifacts.RECORD, work / artifacts.RECORD)
    digests(run_id, trained, work, beton_of(plan.run(run_id)), devices.facts(device)).write(work / artifacts.DIGESTS)
    return values


def digests(run_id: str, trained: Path, evaluated: Path, data: Path, device: dict[str, str | int]) -> Digests:
    """The content of evaluations/<run>/digests.json, from the folders where a run's files lie.

    `device` is what it was evaluated on. Raises UserError when the data's card is missing or no JSON.
    """
    card = open_card(data)
    places = [(trained / name, artifacts.MODELS / run_id / name) for name in artifacts.MODEL_FILES]
    places += [(evaluated / name, artifacts.EVALUATIONS / run_id / name) for name in artifacts.EVALUATION_FILES]
    splits = {str(split): content(card, split) for split in SPLITS}
    return Digests(
        data={"name": data.name, "card": sha256(data / "card.json"), **splits},
        device=device,
        files={place.as_posix(): sha256(path) for path, place in places},
    )


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

    def predict(weights: Mapping[str, Tensor], shown: bool = True) -> Predictions:
        model = skeleton(parse(run.network), plan.datasets[run.dataset].classes)
        try:
            model.load_state_dict(weights, assign=True)
        except RuntimeError as error:
            what = f"the weights are not those of {run.network}: {' '.join(str(error).split())[:200]}"
            raise UserError(what, "dvc checkout, or train it again") from None
        return task.predict(model.to(device).to(memory_format=torch.channels_last), batches(shown))

    def batches(shown: bool) -> Iterator[tuple[Tensor, Ints]]:
        with progress("evaluate", len(samples), "images") if shown else nullcontext() as bar:
            for each in loader.batches(samples):
                yield preprocessing(torch.from_numpy(each.images).to(device)), each.labels
                if bar:
                    bar.advance(len(each.labels))

    return samples, predict
