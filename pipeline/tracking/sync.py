"""Rebuilds MLflow's records from the repository's files, as often as one likes."""

from collections import Counter
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from pipeline.params import Plan
from pipeline.progress import progress, say
from pipeline.tracking.entry import checkout, finished
from pipeline.tracking.mirror import LATER
from pipeline.tracking.store import client, experiment, explained, name, reason
from pipeline.tracking.write import Written, write

if TYPE_CHECKING:
    from mlflow import MlflowClient


def sync_all(plan: Plan, tell: Callable[[str], None]) -> None:
    """Record every finished training of the plan, and `tell` line by line what was done.

    Raises UserError when a file of a run is broken or MLflow fails. What was written until then stays, and the next
    sync goes on from there.
    """
    here = checkout(plan)
    trained = [run_id for run_id in plan.runs if (Path("models") / run_id / "run.json").exists()]
    entries = [finished(run_id, here) for run_id in trained]
    done: dict[str, Written] = {}
    with explained():
        mlflow = client()
        where = experiment(mlflow)
        for entry in entries:
            done[entry.run_id] = write(mlflow, where, entry)
            tell(_line(entry.run_id, done[entry.run_id]))
        others = len(_shown(mlflow, where) - {written.run for written in done.values()})
    tell(_summary(done, len(plan.runs) - len(done), others))
    if unmeasured := [run_id for run_id, written in done.items() if not written.measured]:
        tell(f"without images per second, which only a training in progress can measure: {', '.join(unmeasured)}")


def sync_run(mlflow: "MlflowClient", where: str, plan: Plan, run_id: str) -> Written:
    """Record one finished training."""
    return write(mlflow, where, finished(run_id, checkout(plan)))


def log_runs(plan: Plan, runs: Mapping[str, Mapping[str, str]]) -> None:
    """Record trainings whose files were just published, by their run ids, with tags of what only their machines knew.

    Failures are said, not raised.
    """
    try:
        here = checkout(plan)
        mlflow = client()
        where = experiment(mlflow)
        with progress("MLflow", len(runs), "runs") as task:
            for run_id, tags in runs.items():
                run = write(mlflow, where, finished(run_id, here)).run
                for key, value in tags.items():
                    mlflow.set_tag(run, key, value)
                task.advance()
    except Exception as error:  # noqa: BLE001 - the files are complete without MLflow
        say(f"MLflow is not recording {len(runs)} published runs ({reason(error)}); {LATER}")


def _line(run_id: str, written: Written) -> str:
    word = "made" if written.made else "changed" if written.changes else "as it was"
    told = written.changes and not written.made  # of a new run: all of it
    return f"{word:<10}{run_id}" + (f": {'; '.join(written.changes)}" if told else "")


def _summary(done: dict[str, Written], not_trained: int, others: int) -> str:
    counted = Counter("made" if w.made else "changed" if w.changes else "as they were" for w in done.values())
    if counted["as they were"] == 1:
        counted["as it was"] = counted.pop("as they were")
    parts = [", ".join(f"{count} {word}" for word, count in sorted(counted.items())) or "no finished training"]
    if not_trained:
        parts.append(f"{not_trained} of the plan without files")
    if others:
        records = "1 other record stays" if others == 1 else f"{others} other records stay"
        parts.append(f"{records} (older code or settings, trainings under way, other checkouts)")
    return f"{name()}: {'; '.join(parts)}"


def _shown(mlflow: "MlflowClient", where: str) -> set[str]:
    shown: set[str] = set()
    token = None
    while True:
        page = mlflow.search_runs([where], page_token=token)
        shown |= {run.info.run_id for run in page}
        if not (token := page.token):
            return shown
