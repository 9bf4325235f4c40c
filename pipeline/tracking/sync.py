"""Rebuilds MLflow's records from the repository's files, as often as one likes."""

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipeline.params import Plan
from pipeline.progress import progress, say
from pipeline.tracking.run_record import checkout, finished
from pipeline.tracking.store import LATER, client, experiment, explained, name, reason
from pipeline.tracking.write import Written, write

if TYPE_CHECKING:
    from mlflow import MlflowClient

SAME = "as it was"
"""Begins the line of a run that the store has whole."""


@dataclass(frozen=True)
class Synced:
    """What a sync has done."""

    store: str
    runs: dict[str, Written]
    not_trained: int
    """Runs of the plan without files."""
    others: int
    """Records that are of no file here, and stay."""


def sync_all(plan: Plan, tell: Callable[[str], None]) -> Synced:
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
    synced = Synced(name(), done, len(plan.runs) - len(done), others)
    tell(_summary(synced))
    if unmeasured := [run_id for run_id, written in done.items() if not written.measured]:
        tell(f"without images per second, which only a training in progress can measure: {', '.join(unmeasured)}")
    return synced


def sync_run(mlflow: "MlflowClient", where: str, plan: Plan, run_id: str) -> Written:
    """Record one finished training."""
    return write(mlflow, where, finished(run_id, checkout(plan)))


def log_runs(plan: Plan, runs: Sequence[str]) -> None:
    """Record trainings whose files were just published, by their run ids. Failures are said, not raised."""
    try:
        here = checkout(plan)
        mlflow = client()
        where = experiment(mlflow)
        with progress("MLflow", len(runs), "runs") as task:
            for run_id in runs:
                write(mlflow, where, finished(run_id, here))
                task.advance()
    except Exception as error:  # noqa: BLE001 - the files are complete without MLflow
        say(f"MLflow is not recording {len(runs)} published runs ({reason(error)}); {LATER}")


def log_evaluation(plan: Plan, run_id: str) -> None:
    """Bring MLflow's run of an evaluated training up to date with the files; failures are said, not raised."""
    try:
        mlflow = client()
        sync_run(mlflow, experiment(mlflow), plan, run_id)
    except Exception as error:  # noqa: BLE001 - the evaluation's files are complete without MLflow
        say(f"MLflow is not recording the evaluation of {run_id} ({reason(error)}); {LATER}")


def as_json(synced: Synced) -> dict[str, Any]:
    """For programs: what was done with each run, in the same words as the lines."""
    runs = [
        {"run": run_id, "done": _word(written), "changes": list(written.changes), "measured": written.measured}
        for run_id, written in synced.runs.items()
    ]
    return {"store": synced.store, "runs": runs, "not_trained": synced.not_trained, "others": synced.others}


def _word(written: Written) -> str:
    return "made" if written.made else "changed" if written.changes else SAME


def _line(run_id: str, written: Written) -> str:
    told = written.changes and not written.made  # of a new run: all of it
    return f"{_word(written):<10}{run_id}" + (f": {'; '.join(written.changes)}" if told else "")


def _summary(synced: Synced) -> str:
    counted = Counter(_word(written) for written in synced.runs.values())
    if counted[SAME] > 1:
        counted["as they were"] = counted.pop(SAME)
    parts = [", ".join(f"{count} {word}" for word, count in sorted(counted.items())) or "no finished training"]
    if synced.not_trained:
        parts.append(f"{synced.not_trained} of the plan without files")
    if synced.others:
        records = "1 other record stays" if synced.others == 1 else f"{synced.others} other records stay"
        parts.append(f"{records} (older code or settings, trainings under way, other checkouts)")
    return f"{synced.store}: {'; '.join(parts)}"


def _shown(mlflow: "MlflowClient", where: str) -> set[str]:
    shown: set[str] = set()
    token = None
    while True:
        page = mlflow.search_runs([where], page_token=token)
        shown |= {run.info.run_id for run in page}
        if not (token := page.token):
            return shown
