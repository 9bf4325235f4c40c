"""Finished runs that were never trained, with errors that a test chooses, and a small plan that names them."""

import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pipeline.artifacts import RunRecord
from pipeline.comparison.cells import Cell
from pipeline.comparison.results import Metrics, Result
from pipeline.comparison.tables import Table
from pipeline.params import Protocol
from pipeline.publication.wide_resnet import PAPER
from pipeline.runner.params_file import parse_plan

PLAN = """
datasets:
  {cifar10: &dataset {title: CIFAR, reader: cifar-python, classes: 10, shape: [32, 32, 3],
    splits: {train: 50000, test: 10000}, digests: null, record_digests: null,
    sources: [{archive: "https://example.org/cifar.tar.gz", md5: c58f30108f718f92721af3b95e74349a, bytes: 1}],
    homepage: none, licence: none, citation: none}, cifar100: *dataset}
representations: {cifar10-rgb: {dataset: cifar10, kind: rgb}, cifar100-rgb: {dataset: cifar100, kind: rgb}}
protocols:
  brief: {epochs: 2, batch_size: 128, optimizer: sgd, learning_rate: 0.4, momentum: 0.9, nesterov: true,
    weight_decay: 0.0005, schedule: {kind: one-cycle, warmup_fraction: 0.3, start_factor: 0.1}, label_smoothing: 0.1,
    dropout: 0.0, preprocessing: meanstd, flip: per-image, crop: per-image, drop_last: true, conv_init: fan_out,
    bn_init: ones, precision: bf16}
runs: {__RUNS__}
tables: ["4"]
loading: {backend: numpy}
device: cpu
kernels: torch
comparison: {margins: {cifar10: 0.3, cifar100: 0.6, svhn: 0.15, imagenet: 0.3}}
"""
BRIEF = parse_plan(PLAN.replace("__RUNS__", "")).protocols["brief"]
"""Far from the paper's protocol."""
PRINTED = {"pre-act-ResNet-164": 85, "pre-act-ResNet-1001": 512, "WRN-40-4": 68, "WRN-16-10": 164, "WRN-28-10": 312}
"""The times of Figure 4, in ms."""


def plan_text(runs: Sequence[Result]) -> str:
    """params.yaml with these runs. Its protocol is not theirs: a comparison believes run.json."""
    entries = [
        f"{r.run}: {{dataset: {r.record.dataset}, representation: rgb, network: '{r.record.network}', "
        f"protocol: brief, seed: {r.record.seed}}}"
        for r in runs
    ]
    return PLAN.replace("__RUNS__", ", ".join(entries))


def result(
    errors: int,
    *,
    run: str | None = None,
    network: str = "WRN-40-1",
    dataset: str = "cifar10",
    protocol: Protocol | str = "paper-zca",
    seed: int = 1,
    **changes: Any,
) -> Result:
    """A finished run with `errors` wrong test images. `changes` are of run.json or metrics.json."""
    recipe = PAPER.protocols[protocol].protocol if isinstance(protocol, str) else protocol
    name = run or re.sub(r"[^a-z0-9]+", "-", f"{dataset}-{network}-s{seed}".lower())
    about = {"run": name, "dataset": dataset, "network": network}
    metrics = {"split": "test", "n": PAPER.images(dataset, "test"), "top5_error": None}
    metrics |= {key: changes.pop(key) for key in metrics if key in changes}
    record = {
        "representation": "zca" if recipe.preprocessing == "zca" else "rgb",
        "protocol_name": "brief",
        "protocol": recipe,
        "seed": seed,
        "epochs": recipe.epochs,
        "fingerprint": f"fingerprint of {name}",
        "parameters": 563930,
        **{"loader": "ffcv", "kernels": "torch", "devices": [], "unrepeatable_kernels": []},
        "device": {"type": "cuda", "name": "NVIDIA H200"},
        "versions": {"torch": "2.14.1"},
        **changes,
    }
    return Result(Metrics(**about, **metrics, errors=errors), RunRecord(**about, **record))


def changed(name: str, **fields: Any) -> Protocol:
    """The paper's protocol `name` with other values of these fields."""
    return Protocol.model_validate({**PAPER.protocols[name].protocol.model_dump(), **fields})


def five(errors: Sequence[int], **settings: Any) -> list[Result]:
    """Runs that differ in their seed."""
    return [result(wrong, seed=seed, **settings) for seed, wrong in enumerate(errors, 1)]


def of_many_verdicts() -> list[Result]:
    """Of all but those of counts that differ and of times; of several seeds and protocols."""
    return [
        *five([540, 548, 541, 545, 543], network="WRN-40-2"),
        *five([800, 810, 805], network="WRN-40-2-B(3)"),
        *five([480, 482, 481], network="WRN-40-2-B(3,3,3)"),
        result(593, network="WRN-40-2-B(3,3,3,3)"),
        result(1234, protocol=BRIEF, run="quick-run"),
        *five([400, 410], network="WRN-28-10-dropout", protocol="paper-meanstd"),
    ]


def times(path: Path, ms: Mapping[str, float], precision: str = "fp32") -> Path:
    """What `wrn-pipe bench figure-4 --json` prints, of these networks, in a file."""
    timings = [{"network": name, "ms": {"median": value, "n": 3}} for name, value in ms.items()]
    path.write_text(json.dumps({"machine": {"name": "A GPU"}, "precision": precision, "timings": timings}))
    return path


def cell_in(table: Table, model: str, dataset: str = "cifar10", metric: str = "top1_error") -> Cell:
    """The one in this place."""
    (found,) = [c for c in table.cells if (c.model, c.dataset, c.metric) == (model, dataset, metric)]
    return found


def write(results: Sequence[Result], root: Path) -> None:
    """params.yaml and evaluations/ as the pipeline leaves them."""
    (root / "params.yaml").write_text(plan_text(results), encoding="utf-8")
    for each in results:
        folder = root / "evaluations" / each.run
        folder.mkdir(parents=True)
        (folder / "metrics.json").write_text(each.metrics.model_dump_json(exclude_none=True), encoding="utf-8")
        each.record.write(folder / "run.json")
