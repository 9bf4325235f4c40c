"""Brings MLflow's records up to date with the repository's files, as often as one likes."""

from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any

from pipeline.params import Plan
from pipeline.progress import progress, say
from pipeline.tracking.run_record import finished
from pipeline.tracking.store import LATER, connect, explained, name, reason
from pipeline.tracking.write import Written, runs, write

SAME = "as it was"
"""Begins the line of a run that the store has whole."""


def sync_all(plan: Plan, tell: Callable[[str], None]) -> dict[str, Any]:
    """Record every finished training of the plan, and `tell` line by line what was done; returns the same for programs.

    Raises UserError when a file of a run is broken or MLflow fails. What was written until then stays, and the next
    sync goes on from there.
    """
    records = finished(plan, [run for run in plan.runs if (Path("models") / run / "model.safetensors").exists()])
    done: dict[str, Written] = {}
    with explained():
        client, experiments = connect()
        there = runs(experiments)
        for run_id, record in records.items():
            found = [run for run in there if run.data.tags.get("fingerprint") == record.fingerprint]
            done[run_id] = written = write(client, experiments[0], record, found)
            told = f": {'; '.join(written.changes)}" if written.changes and not written.made else ""
            tell(f"{_word(written):<10}{run_id}{told}")
    ours = {record.fingerprint for record in records.values()}
    active = [run for run in there if run.info.lifecycle_stage == "active"]
    others = sum(run.data.tags.get("fingerprint") not in ours for run in active)
    absent = len(plan.runs) - len(done)
    counted = sorted(Counter(map(_word, done.values())).items())
    words = [f"{count} {'as they were' if word == SAME and count > 1 else word}" for word, count in counted]
    parts = [", ".join(words) or "no finished training"]
    if absent:
        parts.append(f"{absent} of the plan without files")
    if others:
        stay = "1 other record stays" if others == 1 else f"{others} other records stay"
        parts.append(f"{stay} (older code or settings, trainings under way, other checkouts)")
    tell(f"{name()}: {'; '.join(parts)}")
    if unmeasured := [run_id for run_id, written in done.items() if not written.measured]:
        tell(f"without images per second, which only a training in progress can measure: {', '.join(unmeasured)}")
    lines = [
        {"run": run_id, "done": _word(written), "changes": list(written.changes), "measured": written.measured}
        for run_id, written in done.items()
    ]
    return {"store": name(), "runs": lines, "not_trained": absent, "others": others}


def _word(written: Written) -> str:
    return "made" if written.made else "changed" if written.changes else SAME


def log_runs(plan: Plan, finished_runs: Sequence[str]) -> None:
    """Record runs whose files were just published, by their ids. Failures are said, not raised."""
    several = len(finished_runs) > 1
    try:
        records = finished(plan, finished_runs)
        client, experiments = connect()
        with progress("MLflow", len(finished_runs), "runs") if several else nullcontext() as task:
            for record in records.values():
                write(client, experiments[0], record, runs(experiments, record.fingerprint))
                if task:
                    task.advance()
    except Exception as error:  # noqa: BLE001 - the files are complete without MLflow
        what = f"{len(finished_runs)} published runs" if several else "".join(finished_runs)
        say(f"MLflow is not recording {what} ({reason(error)}); {LATER}")
