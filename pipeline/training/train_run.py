"""One training from settings to files: made ready, trained by the loop, published."""

import csv
import os
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

# Read when torch first allocates: large blocks on huge pages save page faults on a CPU.
os.environ.setdefault("THP_MEM_ALLOC_ENABLE", "1")

import numpy as np
import torch
from safetensors.torch import save

from pipeline.data.loader import Loader
from pipeline.data.preprocessing import Preprocessing
from pipeline.errors import OUTSIDE, WrnPipeError, continue_with
from pipeline.kernels.apply import use
from pipeline.models.build import build, count_parameters
from pipeline.models.sync_batch_norm import synchronise
from pipeline.params import Plan
from pipeline.progress import say
from pipeline.provenance import versions
from pipeline.publish import json_text, new_folder
from pipeline.tasks.classification import loader_of, network_of, predict
from pipeline.training import device as devices
from pipeline.training.checkpoints import EpochRecord, Progress
from pipeline.training.hooks import Hooks
from pipeline.training.loop import Training, train
from pipeline.training.processes import require_allowed
from pipeline.training.ranks import ALONE, Ranks


def train_run(
    plan: Plan,
    run_id: str,
    print_of_run: str,
    scratch: Path,
    to: Path,
    hooks: Hooks,
    ranks: Ranks = ALONE,
) -> None:
    """Train run `run_id`, from the state in `scratch` if there is one, and write its files as the folder `to`.

    Of several `ranks` the first writes; all take part.
    """
    with hooks.explain_no_memory(run_id, lambda: OUTSIDE):
        training, record = prepare(plan, run_id, print_of_run, scratch, hooks, ranks)
        if not ranks.leads:
            train(training, lambda *_: None)
            return
        here = f"on {training.device} ({record['device']['name']}, {record['device']['threads']} threads)"
        if ranks.size > 1:
            here = f"by {ranks.size} processes, batch norm {training.protocol.batch_norm}, the first {here}"
        say(f"{run_id}: {here}")
        if training.precision != training.protocol.precision:
            say(
                f"{run_id}: computes in {training.precision}, not in {training.protocol.precision}: this "
                f"{training.device.type} has no instructions for bfloat16"
            )
        with hooks.run_logger(run_id, record) as logger:
            done = train(training, logger.epoch)
            trained_on = {
                "device": done.devices[-1],
                "devices": done.devices,
                "unrepeatable_kernels": done.unrepeatable,
            }
            publish(to, training, done, record | trained_on)


def prepare(
    plan: Plan,
    run_id: str,
    print_of_run: str,
    scratch: Path,
    hooks: Hooks,
    ranks: Ranks = ALONE,
) -> tuple[Training, dict[str, Any]]:
    """A training ready to start, keeping its state in `scratch`, and what run.json says of it before its first step.

    Raises UserError where so many ranks would train something else than the protocol says.
    """
    require_allowed(plan, run_id, ranks.size)
    run = plan.run(run_id)
    protocol, data = plan.protocols[run.protocol], f"{run.dataset}-{run.representation}"
    dropout = protocol.dropout if run.network.endswith("-dropout") else 0.0
    device = ranks.device or devices.choose(plan.device)
    devices.prepare(device)
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
    kernels = synchronise(model, device) if protocol.batch_norm == "synchronised" else use(plan.kernels, model, device)
    # Several processes share the cores: as many threads decode JPEGs in each as compute there.
    workers = torch.get_num_threads() if ranks.size > 1 and run.representation == "jpeg" else None
    share = ranks.shard.size(protocol.batch_size)
    loader = Loader(Path("data/beton") / data, "train", share, plan.loading.backend, workers)
    preprocessing = Preprocessing(protocol.preprocessing).to(device)
    forward = ranks.around(model)

    test = None
    if protocol.test_every and ranks.leads:
        split = loader_of(Path("data/beton") / data, "test", plan.loading.backend)

        def test(weights: dict[str, torch.Tensor]) -> float:
            judged = network_of(run.network, plan.datasets[run.dataset].classes, weights, device)
            labels, rows = predict(judged, split, preprocessing, device, np.arange(split.samples), shown=False)
            return round(100 * float((rows.argmax(1) != labels).mean()), 6)  # as metrics.json has it

    training = Training(
        run_id,
        protocol,
        run.seed,
        model,
        loader,
        preprocessing,
        device,
        scratch,
        hooks,
        ranks,
        forward,
        test,
    )
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
        "device": training.facts,
        "versions": versions(),
    }
    return training, record


def publish(to: Path, training: Training, done: Progress, record: dict[str, Any]) -> None:
    """Write the three files of models/<run>. Raises WrnPipeError when the disk is full or fails; nothing shows then."""
    try:
        with new_folder(to) as work:
            weights = {k: v.detach().cpu().contiguous() for k, v in training.model.state_dict().items()}
            (work / "model.safetensors").write_bytes(save(weights))
            write_history(work / "history.csv", done.history)
            (work / "run.json").write_text(json_text(record), encoding="utf-8")
    except OSError as error:
        raise WrnPipeError(
            f"cannot write {to} ({error.strerror}); the finished training is kept in {training.scratch}",
            f"make room there, then: {continue_with(training.run_id)} (it trains nothing again)",
        ) from error


def write_history(path: Path, history: list[EpochRecord]) -> None:
    """One row an epoch; numbers as Python prints them, which reads back to the same bits."""
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, [f.name for f in fields(EpochRecord)], lineterminator="\n")
        writer.writeheader()
        writer.writerows(asdict(row) for row in history)
