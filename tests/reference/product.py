"""The product as a user has it: a plan of one run on a few real images, trained and evaluated."""

import os
import signal
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from made_up_runs import changed, plan_text
from torch.overrides import TorchFunctionMode

from pipeline.artifacts import EpochRecord
from pipeline.dataset_config import Dataset
from pipeline.errors import InterruptedTrainingError
from pipeline.params import Plan, Protocol, Run
from pipeline.runner.params_file import parse_plan
from pipeline.runner.run_hooks import RunHooks
from pipeline.training.evaluate_run import evaluate
from pipeline.training.loop import train
from pipeline.training.train_run import prepare, train_run

RUN, SEED = "the-run", 3
STEP = {"kind": "step", "drop_after": [3, 7], "factor": 0.2, "reset_momentum": True}
ONE_CYCLE = {"kind": "one-cycle", "warmup_fraction": 0.3, "start_factor": 0.1}
FEW_STEPS = {"epochs": 10, "batch_size": 4, "learning_rate": 0.05, "weight_decay": 0.01, "test_every": 0}
NOVEMBER_2016 = changed("paper-meanstd", schedule=STEP, **FEW_STEPS).model_dump(mode="json")
Tensors = dict[str, torch.Tensor]


def plan_of(dataset: dict[str, Any], network: str, protocol: dict[str, Any]) -> Plan:
    """With torch's own kernels on the CPU: nothing to be built, and one way of rounding less."""
    run = Run(dataset="cifar10", representation="rgb", network=network, protocol="recipe", seed=SEED)
    recipe, of = Protocol.model_validate(protocol), Dataset.model_validate(dataset)
    its = {"datasets": {"cifar10": of}, "protocols": {"recipe": recipe}, "runs": {RUN: run}}
    return parse_plan(plan_text([])).model_copy(update=its)


@dataclass
class Trained:
    """What a training showed on its way. Each list begins where this attempt began."""

    logits: list[torch.Tensor] = field(default_factory=list)
    """Of each step's mini-batch."""
    rows: list[EpochRecord] = field(default_factory=list)
    """As on_epoch was given them."""
    states: list[Tensors] = field(default_factory=list)
    """Weights and running statistics after each epoch."""
    history: list[EpochRecord] | None = None
    """None where it was stopped."""
    final: Tensors = field(default_factory=dict)


class _StaysFloat64(TorchFunctionMode):
    """What is float64 is not cast to float32, as the product casts the outputs of which it takes the loss."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        narrows = func is torch.Tensor.float or (func is torch.Tensor.to and torch.float32 in args[1:])
        if narrows and args[0].dtype == torch.float64:
            return args[0]
        return func(*args, **(kwargs or {}))


def trained_in_float64(plan: Plan, scratch: Path, stop_in: int | None = None) -> Trained:
    """In the folder of a project. `stop_in`: this process gets SIGTERM during that step of the attempt, from 1."""
    training, _ = prepare(plan, RUN, scratch.name, scratch, RunHooks())
    model, seen = training.model.double(), Trained()

    def state() -> Tensors:
        return {k: v.clone() for k, v in model.state_dict().items() if v.is_floating_point()}

    def enter(_: object, inputs: tuple[torch.Tensor]) -> torch.Tensor:
        if len(seen.logits) + 1 == stop_in:
            os.kill(os.getpid(), signal.SIGTERM)
        return inputs[0].double()

    def on_epoch(row: EpochRecord, rate: float) -> None:
        seen.rows.append(row)
        seen.states.append(state())

    model.register_forward_pre_hook(enter)
    model.register_forward_hook(lambda _, __, logits: seen.logits.append(logits.detach().clone()))
    try:
        with _StaysFloat64():
            seen.history = train(training, on_epoch).history
    except InterruptedTrainingError:
        assert stop_in == len(seen.logits)
    seen.final = state()
    return seen


def run_to_files(plan: Plan, name: str) -> tuple[Path, Path]:
    """In the folder of a project: the folders of what training and evaluation leave, as published."""
    trained, evaluated = Path(name, "models") / RUN, Path(name, "evaluations") / RUN
    train_run(plan, RUN, name, Path("scratch") / name, trained, RunHooks())
    evaluated.mkdir(parents=True)
    evaluate(plan, RUN, trained, evaluated)
    return trained, evaluated
