"""One run in a job of its own: `python -m pipeline.runner.job RUN FINGERPRINT STAGE`.

It trains and evaluates into scratch/<fingerprint>/ only. DVC's lock, dvc.lock and the tracking database are the
driver's (pipeline/runner/job_driver.py), so any number of jobs run beside each other.
"""

import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from hashlib import sha256
from pathlib import Path
from typing import Literal

from pipeline.artifacts import SCRATCH
from pipeline.errors import UserError, exit_on_error
from pipeline.params import Plan
from pipeline.provenance import dependencies, digests_of, fingerprint
from pipeline.publish import new_folder
from pipeline.runner.failure_record import keep_failure_record
from pipeline.runner.interruptions import stop_training_at_once
from pipeline.runner.launch import Task, train
from pipeline.runner.params_file import load
from pipeline.runner.run_lock import hold
from pipeline.training.processes import number_of_processes

FirstStage = Literal["train", "evaluate"]
"""train: train and evaluate; evaluate: what lies in models/<run>."""


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


def main(run_id: str, print_of_run: str, stage: FirstStage) -> None:
    """Bring one run to its end. Raises UserError when its inputs are not those that the job was submitted for."""
    plan = load()
    with _attempt("train", run_id, print_of_run):
        if fingerprint(plan, run_id) != print_of_run:
            raise UserError(
                f"run {run_id}: settings, code or data were edited after this job was submitted",
                "wrn-pipe repro as before submits what is there now",
            )
        if stage == "train" and not trained(print_of_run).is_dir():
            places = str(SCRATCH / print_of_run), str(trained(print_of_run))
            train(plan, Task(run_id, print_of_run, *places), number_of_processes(plan, run_id, None))
    with _attempt("evaluate", run_id, print_of_run):
        from pipeline.training.evaluate_run import evaluate

        weights = trained(print_of_run) if stage == "train" else Path("models") / run_id
        with new_folder(evaluated(plan, run_id, print_of_run)) as work:
            evaluate(plan, run_id, weights, work)


@contextmanager
def _attempt(stage: FirstStage, run_id: str, print_of_run: str) -> Iterator[None]:
    with (
        keep_failure_record(f"{stage}@{run_id}"),
        stop_training_at_once(run_id),
        hold(SCRATCH / print_of_run, run_id, wait=True),
    ):
        yield


if __name__ == "__main__":
    with exit_on_error():
        run, print_of_run, stage = sys.argv[1:]
        main(run, print_of_run, "train" if stage == "train" else "evaluate")
