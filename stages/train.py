"""train: data/beton/<dataset>-<representation> -> models/<run>/{model.safetensors, history.csv, run.json}."""

from typing import Literal

from pipeline.artifacts import MODELS, SCRATCH
from pipeline.provenance import fingerprint
from pipeline.runner.attempts import discard, hold, run_stage
from pipeline.runner.interruptions import stop_training_at_once
from pipeline.runner.launch import Task, train
from pipeline.runner.params_file import load
from pipeline.training.processes import number_of_processes, wait_briefly


def main(
    run_id: str,
    *,
    fresh: bool = False,
    wait: bool = False,
    checkpoint_steps: int | None = None,
    nproc: Literal["auto"] | int | None = None,
) -> None:
    """Train run `run_id` of params.yaml, from where an earlier attempt stopped, and publish models/<run_id>.

    `fresh` forgets earlier attempts. `wait` waits for another process that trains the same run; without it that is a
    UserError. `checkpoint_steps`: see RunHooks. `nproc`: by this number of processes, else by the protocol's; auto is
    one for each GPU. Raises UserError for a number that would train something else. The last state stays in scratch/
    until the run is evaluated: by then DVC has recorded the training, and a crash between here and there costs nothing.
    """
    wait_briefly()  # for those who call dvc by itself
    plan = load()
    processes = number_of_processes(plan, run_id, nproc)
    print_of_run = fingerprint(plan, run_id)
    scratch = SCRATCH / print_of_run
    with stop_training_at_once(run_id), hold(scratch, run_id, wait):
        if fresh:
            discard(scratch)
        train(plan, Task(run_id, print_of_run, MODELS / run_id, checkpoint_steps, mirrored=True), processes)


if __name__ == "__main__":
    run_stage(main)
