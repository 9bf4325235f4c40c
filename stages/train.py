"""train: data/beton/<dataset>-<representation> -> models/<run>/{model.safetensors, history.csv, run.json}."""

import csv
import os
import shutil
from dataclasses import asdict, fields
from pathlib import Path

# Read when torch first allocates: large blocks on huge pages save page faults on a CPU.
os.environ.setdefault("THP_MEM_ALLOC_ENABLE", "1")

import torch
from safetensors.torch import save_file

from pipeline.errors import run_stage
from pipeline.loading.loader import Loader
from pipeline.loading.preprocessing import Preprocessing
from pipeline.models.bn_relu import fuse
from pipeline.models.build import build, count_parameters
from pipeline.params import load
from pipeline.provenance import fingerprint, versions
from pipeline.publish import json_text, new_folder
from pipeline.tracking.mirror import Mirror
from pipeline.training import device as devices
from pipeline.training.checkpoints import EpochRecord
from pipeline.training.loop import Training, train


def main(run_id: str) -> None:
    """Train run `run_id` of params.yaml, from where an earlier attempt stopped."""
    plan = load()
    run = plan.run(run_id)
    protocol, data = plan.protocols[run.protocol], f"{run.dataset}-{run.representation}"
    print_of_run = fingerprint(plan, run_id)
    device = devices.choose(plan.device)
    devices.prepare(device)
    dropout = protocol.dropout if run.network.endswith("-dropout") else 0.0
    model = (
        build(
            run.network,
            plan.datasets[run.dataset].classes,
            conv_init=protocol.conv_init,
            bn_init=protocol.bn_init,
            dropout=dropout,
            seed=run.seed,
        )
        .to(device)
        .to(memory_format=torch.channels_last)
    )
    kernels = fuse(model) if plan.kernels == "fused" and device.type == "cpu" else "torch"
    loader = Loader(Path("data/beton") / data, "train", protocol.batch_size, plan.loading.backend)
    record = {
        "run": run_id,
        **run.model_dump(mode="json"),
        "protocol_name": run.protocol,
        "protocol": protocol.model_dump(mode="json"),
        "fingerprint": print_of_run,
        "parameters": count_parameters(model),
        "epochs": protocol.epochs,
        "loader": plan.loading.backend,
        "kernels": kernels,
        "device": devices.facts(device),
        "versions": versions(),
    }
    scratch = Path("scratch") / print_of_run
    with Mirror(run_id, record) as mirror:
        training = Training(
            run_id, protocol, run.seed, model, loader, Preprocessing(protocol.preprocessing).to(device), device, scratch
        )
        history = train(training, mirror.epoch)
        to = Path("models") / run_id
        with new_folder(to) as work:
            weights = {k: v.detach().cpu().contiguous() for k, v in model.state_dict().items()}
            save_file(weights, work / "model.safetensors")
            write_history(work / "history.csv", history)
            (work / "run.json").write_text(json_text(record), encoding="utf-8")
        mirror.model(to / "model.safetensors")
    shutil.rmtree(scratch, ignore_errors=True)


def write_history(path: Path, history: list[EpochRecord]) -> None:
    """One row an epoch; numbers as Python prints them, which reads back to the same bits."""
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, [f.name for f in fields(EpochRecord)], lineterminator="\n")
        writer.writeheader()
        writer.writerows(asdict(row) for row in history)


if __name__ == "__main__":
    run_stage(main)
