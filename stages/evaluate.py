"""evaluate: models/<run> and the test split -> evaluations/<run>/{predictions.parquet, metrics.json, run.json}."""

import json
import shutil
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from safetensors.torch import load_file

from pipeline.errors import run_stage
from pipeline.evaluation.metrics import metrics
from pipeline.evaluation.predictions import predict, read, write
from pipeline.loading.loader import Ints, Loader
from pipeline.loading.order import held_out
from pipeline.loading.preprocessing import Preprocessing
from pipeline.models.build import skeleton
from pipeline.models.names import parse
from pipeline.params import Plan, Run, load
from pipeline.progress import say
from pipeline.publish import json_text, new_folder
from pipeline.tracking.mirror import log_evaluation
from pipeline.training import device as devices
from pipeline.training.holder import discard_unless_held

_BATCH = 500
_JPEG_BATCH = 100
"""224 x 224 pixels instead of 32 x 32, so that activations fit the memory of a small machine."""


def main(run_id: str) -> None:
    """Evaluate run `run_id` of params.yaml on all images of the test split, or on those that its protocol held out."""
    plan = load()
    run = plan.run(run_id)
    trained = Path("models") / run_id
    record = json.loads((trained / "run.json").read_text(encoding="utf-8"))
    weights = load_file(trained / "model.safetensors")
    to = Path("evaluations") / run_id
    with new_folder(to) as work:
        write(work / "predictions.parquet", *predicted(plan, run, weights))
        values = metrics(*read(work / "predictions.parquet"))
        split = "held-out" if plan.protocols[run.protocol].holdout else "test"
        about = {"run": run_id, "dataset": run.dataset, "network": run.network, "split": split}
        (work / "metrics.json").write_text(json_text({**about, **values}), encoding="utf-8")
        # A copy, so that tables need the evaluations only and not the weights beside the original.
        shutil.copyfile(trained / "run.json", work / "run.json")
    say(f"{run_id}: {split} error {values['top1_error']:.2f} % of {values['n']} images")
    log_evaluation(run_id, record["fingerprint"], values)
    discard_unless_held(Path("scratch") / record["fingerprint"], run_id)


def predicted(plan: Plan, run: Run, weights: dict[str, torch.Tensor]) -> tuple[Ints, Ints, npt.NDArray[np.float64]]:
    """Indices [N], labels [N] and probabilities [N, classes] of what a run with these weights is evaluated on."""
    device = devices.choose(plan.device, "fp32").device  # as predict computes
    devices.prepare(device)
    model = skeleton(parse(run.network), plan.datasets[run.dataset].classes)
    model.load_state_dict(weights, assign=True)
    model.to(device).to(memory_format=torch.channels_last)
    protocol = plan.protocols[run.protocol]
    data = Path("data/beton") / f"{run.dataset}-{run.representation}"
    batch = _JPEG_BATCH if run.representation == "jpeg" else _BATCH
    loader = Loader(data, "train" if protocol.holdout else "test", batch, plan.loading.backend)
    samples = held_out(loader.samples, protocol.holdout) if protocol.holdout else np.arange(loader.samples)
    preprocessing = Preprocessing(protocol.preprocessing).to(device)
    return samples, *predict(model, loader, preprocessing, device, samples)


if __name__ == "__main__":
    run_stage(main)
