"""One run's network on the images it is judged by: from weights to the files of evaluations/<run>."""

import shutil
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file

from pipeline.data.loader import Ints
from pipeline.data.preprocessing import Preprocessing
from pipeline.data.sampler import held_out
from pipeline.errors import UserError
from pipeline.params import Plan, Run
from pipeline.publish import json_text
from pipeline.tasks.classification import about, loader_of, metrics, network_of, predict
from pipeline.tasks.predictions import read, write
from pipeline.training import device as devices
from pipeline.training.run_digests import digests


def evaluate(plan: Plan, run_id: str, trained: Path, work: Path) -> dict[str, float | int | str]:
    """Write the files of evaluations/<run_id>, from those of models/<run_id> in the folder `trained`, into the folder
    `work`; return what metrics.json says. Raises UserError for a file that is missing or broken."""
    run = plan.run(run_id)
    for name in ("model.safetensors", "run.json", "history.csv"):
        if not (trained / name).is_file():
            raise UserError(
                f"{trained / name} not found", f"wrn-pipe repro train@{run_id}, or dvc pull if a remote is set up"
            )
    write(work / "predictions.parquet", *predicted(plan, run, _weights(trained / "model.safetensors", run_id)))
    values = about(plan, run_id) | metrics(*read(work / "predictions.parquet"))
    (work / "metrics.json").write_text(json_text(values), encoding="utf-8")
    # A copy, so that tables need the evaluations only and not the weights beside the original.
    shutil.copyfile(trained / "run.json", work / "run.json")
    made_of = digests(run_id, trained, work, _data(run), devices.facts(_device(plan)))
    (work / "digests.json").write_text(json_text(made_of), encoding="utf-8")
    return values


def predicted(plan: Plan, run: Run, weights: dict[str, torch.Tensor]) -> tuple[Ints, Ints, npt.NDArray[np.float64]]:
    """Indices [N], labels [N] and probabilities [N, classes] of what a run with these weights is evaluated on."""
    device = _device(plan)
    devices.prepare(device)
    model = network_of(run.network, plan.datasets[run.dataset].classes, weights, device)
    protocol = plan.protocols[run.protocol]
    loader = loader_of(_data(run), "train" if protocol.holdout else "test", plan.loading.backend)
    samples = held_out(loader.samples, protocol.holdout) if protocol.holdout else np.arange(loader.samples)
    preprocessing = Preprocessing(protocol.preprocessing).to(device)
    return samples, *predict(model, loader, preprocessing, device, samples)


def _weights(path: Path, run_id: str) -> dict[str, torch.Tensor]:
    try:
        return load_file(path)
    except SafetensorError as error:
        remedy = f"dvc checkout {path}, or delete it, then wrn-pipe repro train@{run_id}"
        raise UserError(f"{path} holds no weights: {error}", remedy) from None


def _device(plan: Plan) -> torch.device:
    return devices.choose(plan.device)


def _data(run: Run) -> Path:
    return Path("data/beton") / f"{run.dataset}-{run.representation}"
