"""Trainings by several processes that share each mini-batch, without torchrun, from one import of torch: see `run`.

As a script, in the folder of a project, it reads a JSON list of scenarios from stdin and does them in turn, a forked
process for each rank. A scenario:
    name       the folder below crew/ that gets of each rank `rank-<r>.safetensors` and `rank-<r>.json`
    size       how many processes
    scratch    where the state is kept, `name` unless said
    protocol   changes of the protocol `brief`
    run        changes of the run
    stop       [rank, step]: this rank gets SIGTERM during that step, counted from 1 in this process
The tensors are gradients, weights and statistics after each step, `<step>.gradient.<parameter>` and `<step>.<name>`,
and the final ones. The JSON has the history, devices, the seeds of the steps' masks, and where it was stopped.
"""

import json
import os
import signal
import sys
import traceback
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from project import ROOT, RUN, Project, free_port, told
from safetensors.torch import save_file
from torch.optim.optimizer import register_optimizer_step_post_hook

from pipeline.errors import InterruptedTrainingError
from pipeline.params import Plan, Protocol, Run
from pipeline.progress import leave_speaking_to_another
from pipeline.runner.params_file import load
from pipeline.runner.run_hooks import RunHooks
from pipeline.training.loop import train
from pipeline.training.ranks import joined
from pipeline.training.train_run import prepare


def changed(plan: Plan, scenario: dict[str, Any]) -> Plan:
    brief, run = plan.protocols["brief"].model_dump(), plan.runs[RUN].model_dump()
    protocols = {"brief": Protocol.model_validate({**brief, **scenario["protocol"]})}
    runs = {RUN: Run.model_validate({**run, **scenario.get("run", {})})}
    return plan.model_copy(update={"protocols": protocols, "runs": runs, "kernels": "fused", "device": "cpu"})


def one(plan: Plan, scenario: dict[str, Any], rank: int) -> None:
    if rank:
        leave_speaking_to_another()
    folder = Path("crew") / scenario["name"]
    folder.mkdir(parents=True, exist_ok=True)
    tensors: dict[str, torch.Tensor] = {}
    seeds: list[int] = []
    with joined("cpu") as ranks:
        scratch = Path("scratch") / scenario.get("scratch", scenario["name"])
        training, _ = prepare(plan, RUN, scratch.name, scratch, RunHooks(), ranks)
        model = training.model

        def seen(*_: object) -> None:
            seeds.append(torch.initial_seed())
            if [rank, len(seeds)] == scenario.get("stop"):
                os.kill(os.getpid(), signal.SIGTERM)

        def stepped(*_: object) -> None:
            step = len(seeds)
            tensors.update({f"{step}.{k}": v.clone() for k, v in model.state_dict().items()})
            tensors.update({f"{step}.gradient.{k}": p.grad.clone() for k, p in model.named_parameters()})

        model.register_forward_pre_hook(seen)
        hook = register_optimizer_step_post_hook(stepped)
        ended: dict[str, Any] = {}
        try:
            done = train(training, lambda *_: None)
            ended = {"history": [asdict(row) for row in done.history], "devices": done.devices}
        except InterruptedTrainingError as stop:
            ended["stopped"] = stop.where
        hook.remove()
    tensors |= {k: v.clone() for k, v in model.state_dict().items()}
    save_file({k: v.contiguous() for k, v in tensors.items()}, folder / f"rank-{rank}.safetensors")
    (folder / f"rank-{rank}.json").write_text(json.dumps({**ended, "seeds": seeds}))


def together(plan: Plan, scenario: dict[str, Any]) -> list[int]:
    """The exit statuses."""
    port, children = free_port(), []
    for rank in range(scenario["size"]):
        child = os.fork()
        if child == 0:
            os.environ.update(
                RANK=str(rank), WORLD_SIZE=str(scenario["size"]), MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port)
            )
            code = 1
            try:
                one(plan, scenario, rank)
                code = 0
            finally:
                if code:
                    traceback.print_exc()
                os._exit(code)
        children.append(child)
    return [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children]


def run(project: Project, scenarios: list[dict[str, Any]]) -> Path:
    """The folder that holds what the scenarios left."""
    paths = f"{ROOT}{os.pathsep}{ROOT / 'tests'}"
    quiet = {"PYTHONPATH": paths, "OMP_NUM_THREADS": "1", "TORCH_CPP_LOG_LEVEL": "ERROR"}
    told(project.run(sys.executable, __file__, said=json.dumps(scenarios), **quiet))
    return project.root / "crew"


if __name__ == "__main__":
    torch.set_num_threads(1)  # no thread pool yet, so that forking is safe
    the_plan = load()
    for each in json.load(sys.stdin):
        codes = together(changed(the_plan, each), each)
        if any(codes):
            sys.exit(f"{each['name']}: exit codes {codes}")
