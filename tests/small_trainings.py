"""Trainings of a small network on the tiny dataset, for tests of what trains, watches and repeats them."""

import math
from dataclasses import replace
from pathlib import Path

import torch

from pipeline.artifacts import EpochRecord
from pipeline.data.batches import Preprocessing
from pipeline.data.loader import Loader
from pipeline.models.resnet import build
from pipeline.params import Protocol
from pipeline.runner.params_file import load
from pipeline.runner.run_hooks import RunHooks
from pipeline.tasks.classification import Classification
from pipeline.training.loop import Training

ROOT = Path(__file__).resolve().parents[1]
QUICK = load(ROOT / "params.yaml").protocols["quick"]


def protocol(**changes: object) -> Protocol:
    base = {"epochs": 2, "batch_size": 64, "learning_rate": 0.1, "precision": "fp32", "test_every": 0}
    return Protocol.model_validate({**QUICK.model_dump(), **base, **changes})


def training(folder: Path, scratch: Path, network: str = "WRN-10-1", seed: int = 1, **changes: object) -> Training:
    recipe = protocol(**changes)
    model = build(
        network, 10, conv_init=recipe.conv_init, bn_init=recipe.bn_init, dropout=recipe.dropout, seed=seed
    ).to(memory_format=torch.channels_last)
    loader = Loader(folder, "train", recipe.batch_size, "numpy")
    task, preprocessing = Classification(recipe.label_smoothing), Preprocessing(recipe.preprocessing)
    device = torch.device("cpu")
    return Training("tiny", recipe, seed, task, model, loader, preprocessing, device, scratch, RunHooks())


def ignore(record: EpochRecord, rate: float) -> None:
    """No mirror."""


def weights(of: Training) -> bytes:
    return b"".join(value.contiguous().numpy().tobytes() for value in of.model.state_dict().values())


def with_nan(run: Training, name: str, step: int) -> tuple[Training, list[int]]:
    """The training, whose weight `name` gets a NaN after this step, counted from 1, and the steps done, as it goes."""
    steps: list[int] = []

    class Spoiling(Classification):
        def count_errors(self, logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
            steps.append(len(steps) + 1)
            if steps[-1] == step:
                weight = run.model.get_parameter(name)
                weight[(0,) * weight.dim()] = math.nan
            return super().count_errors(logits, labels)

    return replace(run, task=Spoiling(run.protocol.label_smoothing)), steps
