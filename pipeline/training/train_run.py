"""One training from settings to files: made ready, trained by the loop, published."""

import os
from pathlib import Path
from typing import Any

# Read when torch first allocates: large blocks on huge pages save page faults on a CPU.
os.environ.setdefault("THP_MEM_ALLOC_ENABLE", "1")

import torch
from torch import nn

from pipeline.artifacts import HISTORY, RECORD, WEIGHTS, RunRecord, beton_of, write_history, write_weights
from pipeline.atomic_write import new_folder
from pipeline.data.batches import Preprocessing
from pipeline.data.beton import inspect, open_split
from pipeline.data.loader import Loader
from pipeline.data.sampler import Shard
from pipeline.errors import OUTSIDE, WrnPipeError, continue_with
from pipeline.models.resnet import build
from pipeline.params import Kernels, Plan
from pipeline.progress import say
from pipeline.provenance import versions
from pipeline.tasks.task import task_of
from pipeline.training import device as devices
from pipeline.training.evaluate_run import predictor
from pipeline.training.hooks import Hooks
from pipeline.training.loop import Training, train
from pipeline.training.ranks import ALONE, Ranks, synchronise


def train_run(
    plan: Plan, run_id: str, print_of_run: str, scratch: Path, to: Path, hooks: Hooks, ranks: Ranks = ALONE
) -> None:
    """Train run `run_id`, from the state in `scratch` if there is one, and write its files as the folder `to`.

    Of several `ranks` the first writes; all take part. Raises WrnPipeError when the disk is full or fails; nothing
    shows in `to` then.
    """
    with hooks.explain_no_memory(run_id, lambda: OUTSIDE):
        training, record = prepare(plan, run_id, print_of_run, scratch, hooks, ranks)
        if not ranks.is_rank_zero:
            train(training, lambda *_: None)
            return
        of = record["device"]
        here = f"on {training.device} ({of['name']}, " + (
            f"{of['threads']} threads)" if "threads" in of else f"CUDA {of['cuda']})"
        )
        if ranks.size > 1:
            here = f"by {ranks.size} processes, batch norm {training.protocol.batch_norm}, the first {here}"
        if training.precision != (asked := training.protocol.precision):
            kind = training.device.type
            here += f"; computes in {training.precision}, not in {asked}: this {kind} has no instructions for bfloat16"
        if record["kernels"].startswith(("compiled", "graphs")):
            here += "; compiles in its first steps, which takes a minute or two the first time"
        say(f"{run_id}: {here}")
        with hooks.run_logger(run_id, record) as logger:
            done = train(training, logger.epoch)
            last = {key: value for key, value in done.devices[-1].items() if key != "from_epoch"}
            record |= {"device": last, "devices": done.devices, "unrepeatable_kernels": done.unrepeatable}
            try:
                with new_folder(to) as work:
                    write_weights(work / WEIGHTS, training.model.state_dict())
                    write_history(work / HISTORY, done.history)
                    RunRecord.model_validate(record).write(work / RECORD)
            except OSError as error:
                raise WrnPipeError(
                    f"cannot write {to} ({error.strerror}); the finished training is kept in {training.scratch}",
                    f"make room there, then: {continue_with(run_id)} (it trains nothing again)",
                ) from error


def prepare(
    plan: Plan, run_id: str, print_of_run: str, scratch: Path, hooks: Hooks, ranks: Ranks = ALONE
) -> tuple[Training, dict[str, Any]]:
    """A training ready to start, keeping its state in `scratch`, and what run.json says of it before its first step."""
    run = plan.run(run_id)
    protocol, task = plan.protocols[run.protocol], task_of(plan, run_id)
    device = ranks.device or devices.choose(plan.device)
    devices.prepare(device)
    classes, conv_init, bn_init = plan.datasets[run.dataset].classes, protocol.conv_init, protocol.bn_init
    model = build(run.network, classes, conv_init=conv_init, bn_init=bn_init, dropout=protocol.dropout, seed=run.seed)
    model = model.to(device).to(memory_format=torch.channels_last)
    if protocol.batch_norm == "synchronised":
        kernels = synchronise(model, device)
    else:
        kernels = speed_up(plan.kernels, model, device)
    # Several processes share the cores: as many threads decode JPEGs in each as compute there.
    workers = torch.get_num_threads() if ranks.size > 1 and run.representation == "jpeg" else None
    share = Shard(ranks.rank, ranks.size).size(protocol.batch_size)
    # The first of the ranks reads every byte, of ImageNet for minutes; the others wait for it.
    known = open_split(beton_of(run), "train") if ranks.is_rank_zero else None
    ranks.largest(0)
    known = known or inspect(beton_of(run) / "train.beton")
    loader = Loader(beton_of(run), "train", share, plan.loading.backend, workers, known)
    preprocessing, test = Preprocessing(protocol.preprocessing).to(device), None
    if protocol.test_every and ranks.is_rank_zero:
        _, predict = predictor(plan, run_id, device)

        def test(weights: dict[str, torch.Tensor]) -> float:
            return task.score(predict(weights, shown=False))[0].value

    training = Training(
        run_id, protocol, run.seed, task, model, loader, preprocessing, device, scratch, hooks, ranks, test
    )
    record = {
        "run": run_id,
        **run.model_dump(mode="json"),
        "protocol_name": run.protocol,
        "protocol": protocol.model_dump(mode="json"),
        "fingerprint": print_of_run,
        "parameters": sum(parameter.numel() for parameter in model.parameters()),
        "epochs": protocol.epochs,
        "loader": plan.loading.backend,
        "kernels": kernels,
        "device": training.facts,
        "versions": versions(),
    }
    return training, record


def speed_up(kernels: Kernels, model: nn.Module, device: torch.device) -> str:
    """pipeline.kernels.apply.speed_up, or torch's own kernels where that folder was deleted, which is said."""
    try:
        from pipeline.kernels.apply import speed_up as by_folder
    except ModuleNotFoundError as error:
        if not (error.name or "").startswith("pipeline.kernels"):
            raise
        if kernels != "torch":
            say(f"kernels: {kernels} needs the folder pipeline/kernels, which is not here; training with torch's own")
        return "torch"
    return by_folder(kernels, model, device)
