"""One run in a job of its own: `python -m pipeline.runner.job RUN FINGERPRINT STAGE`.

It trains and evaluates into scratch/<fingerprint>/ only. DVC's lock, dvc.lock and the tracking database are the
driver's (pipeline/runner/fan_out.py), so any number of jobs run beside each other.
"""

import json
import sys
from hashlib import sha256
from pathlib import Path
from typing import Literal

from pipeline.errors import UserError, exit_on_error
from pipeline.params import Plan
from pipeline.progress import say
from pipeline.provenance import dependencies, digests_of, fingerprint
from pipeline.publish import new_folder
from pipeline.runner.failure_record import keep_failure_record
from pipeline.runner.params_file import load
from pipeline.runner.run_lock import hold
from pipeline.runner.training_interruptions import stop_at_once
from pipeline.runner.waiting import bind_threads
from pipeline.training.processes import number_of_processes

Stage = Literal["train", "evaluate"]
"""train: train and evaluate; evaluate: what lies in models/<run>."""

SCRATCH = Path("scratch")


def trained(print_of_run: str) -> Path:
    """Where a job leaves the files of models/<run>: all of them or none."""
    return SCRATCH / print_of_run / "trained"


def evaluated(plan: Plan, run_id: str, print_of_run: str) -> Path:
    """Where a job leaves the files of evaluations/<run>. The name says by which code and data, so that an evaluation by
    what was edited meanwhile is not taken for one by what is there now."""
    settings = [plan.loading.model_dump(mode="json"), plan.device]
    content: dict[str, str] = {}
    for path in dependencies("evaluate", run_id, plan.run(run_id).model_dump(mode="json")):
        if path.parts[0] != "models":
            content |= digests_of(path)
    digest = sha256(json.dumps([settings, content], sort_keys=True).encode()).hexdigest()
    return SCRATCH / print_of_run / f"evaluated-{digest[:16]}"


def main(run_id: str, print_of_run: str, stage: Stage) -> None:
    """Bring one run to its end. Raises UserError when its inputs are not those that the job was submitted for."""
    plan = load()
    with stop_at_once(run_id), hold(SCRATCH / print_of_run, run_id):
        # Again within: what a signal raises must be kept as well.
        with keep_failure_record(f"train@{run_id}"), stop_at_once(run_id):
            if fingerprint(plan, run_id) != print_of_run:
                raise UserError(
                    f"run {run_id}: settings, code or data were edited after this job was submitted",
                    "wrn-pipe repro as before submits what is there now",
                )
            if stage == "train" and not trained(print_of_run).is_dir():
                _train(plan, run_id, print_of_run)
        with keep_failure_record(f"evaluate@{run_id}"), stop_at_once(run_id):
            from pipeline.training.evaluate_run import evaluate

            weights = trained(print_of_run) if stage == "train" else Path("models") / run_id
            with new_folder(evaluated(plan, run_id, print_of_run)) as work:
                values = evaluate(plan, run_id, weights, work)
    say(f"{run_id}: {values['split']} error {values['top1_error']:.2f} % of {values['n']} images")


def _train(plan: Plan, run_id: str, print_of_run: str) -> None:
    places = SCRATCH / print_of_run, trained(print_of_run)
    processes = number_of_processes(plan, run_id, None)
    if processes > 1:
        from pipeline.runner.launch import train_on

        train_on(processes, run_id, print_of_run, *places, mirrored=False)
    else:
        bind_threads(plan.kernels)
        from pipeline.runner.run_hooks import RunHooks
        from pipeline.training.train_run import train_run

        train_run(plan, run_id, print_of_run, *places, RunHooks(mirrored=False))


if __name__ == "__main__":
    with exit_on_error():
        run, print_of_run, stage = sys.argv[1:]
        main(run, print_of_run, "train" if stage == "train" else "evaluate")
