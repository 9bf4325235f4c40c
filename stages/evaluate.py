"""evaluate: models/<run> and the test split -> evaluations/<run>/.

The folder gets predictions.parquet, metrics.json, digests.json and a copy of run.json.
"""

from pipeline.artifacts import EVALUATIONS, MODELS, RECORD, SCRATCH, RunRecord
from pipeline.atomic_write import new_folder
from pipeline.progress import say
from pipeline.runner.attempts import discard_unless_locked, mirror, run_stage
from pipeline.runner.params_file import load


def main(run_id: str) -> None:
    """Evaluate run `run_id` of params.yaml on all images of the test split, or on those that its protocol held out."""
    plan = load()
    plan.run(run_id)
    to = EVALUATIONS / run_id
    from pipeline.training.evaluate_run import evaluate

    with new_folder(to) as work:
        values = evaluate(plan, run_id, MODELS / run_id, work)
    say(f"{run_id}: {values['split']} error {values['top1_error']:.2f} % of {values['n']} images")
    mirror(plan, [run_id])
    discard_unless_locked(SCRATCH / RunRecord.read(to / RECORD).fingerprint, run_id)


if __name__ == "__main__":
    run_stage(main)
