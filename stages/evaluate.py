"""evaluate: models/<run> and the test split -> evaluations/<run>/{predictions.parquet, metrics.json, run.json}."""

import json
import shutil
from pathlib import Path

import torch
from safetensors.torch import load_file

from pipeline.errors import run_stage
from pipeline.evaluation.metrics import metrics
from pipeline.evaluation.predictions import predict, read, write
from pipeline.loading.loader import Loader
from pipeline.loading.preprocessing import Preprocessing
from pipeline.models.build import skeleton
from pipeline.models.names import parse
from pipeline.params import load
from pipeline.progress import say
from pipeline.publish import json_text, new_folder
from pipeline.tracking.mirror import log_evaluation
from pipeline.training import device as devices
from pipeline.training.holder import discard_unless_held

_BATCH = 500
_JPEG_BATCH = 100
"""224 x 224 pixels instead of 32 x 32, so that activations fit the memory of a small machine."""


def main(run_id: str) -> None:
    """Evaluate run `run_id` of params.yaml on all images of the test split."""
    plan = load()
    run = plan.run(run_id)
    device = devices.choose(plan.device)
    devices.prepare(device)
    trained = Path("models") / run_id
    record = json.loads((trained / "run.json").read_text(encoding="utf-8"))
    model = skeleton(parse(run.network), plan.datasets[run.dataset].classes)
    model.load_state_dict(load_file(trained / "model.safetensors"), assign=True)
    model.to(device).to(memory_format=torch.channels_last)
    data = Path("data/beton") / f"{run.dataset}-{run.representation}"
    batch = _JPEG_BATCH if run.representation == "jpeg" else _BATCH
    loader = Loader(data, "test", batch, plan.loading.backend)
    preprocessing = Preprocessing(plan.protocols[run.protocol].preprocessing).to(device)
    to = Path("evaluations") / run_id
    with new_folder(to) as work:
        write(work / "predictions.parquet", *predict(model, loader, preprocessing, device))
        values = metrics(*read(work / "predictions.parquet"))
        about = {"run": run_id, "dataset": run.dataset, "network": run.network, "split": "test"}
        (work / "metrics.json").write_text(json_text({**about, **values}), encoding="utf-8")
        # A copy, so that tables need the evaluations only and not the weights beside the original.
        shutil.copyfile(trained / "run.json", work / "run.json")
    say(f"{run_id}: test error {values['top1_error']:.2f} % of {values['n']} images")
    log_evaluation(plan, run_id)
    discard_unless_held(Path("scratch") / record["fingerprint"], run_id)


if __name__ == "__main__":
    run_stage(main)
