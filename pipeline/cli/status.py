"""wrn-pipe status: what is done, running, stale, failed and not started, and the command that goes on."""

import textwrap
from typing import TYPE_CHECKING

import typer

from pipeline.cli.options import Json
from pipeline.cli.output import print_json, some
from pipeline.publication.wide_resnet import PAPER

if TYPE_CHECKING:
    from pipeline.runner.plan_state import PlanStatus, RunStatus

_COLOUR = {"done": "green", "made": "green", "running": "cyan", "queued": "blue", "failed": "red"}
_COLOUR |= dict.fromkeys(("stale", "stopped"), "yellow")


def status(as_json: Json = False) -> None:
    """How far each run and table of params.yaml has come, with the time left of trainings under way.

    It waits for nobody and may be asked while wrn-pipe repro runs. DVC says what is stale; where it cannot be asked,
    that is said, and done then only means that a result lies here. Exit code: 0, whatever the runs' states.
    """
    from rich.box import SIMPLE
    from rich.console import Console
    from rich.table import Table

    from pipeline.runner.params_file import load
    from pipeline.runner.plan_state import plan_status
    from pipeline.runner.run_hooks import duration

    found = plan_status(PAPER, load())
    if as_json:
        print_json(found)
        return
    console = Console(highlight=False)
    width = max((len(run.run) for run in found.runs), default=0)
    for run in found.runs:  # lines, no table: no column cuts a name, which is there to be copied
        error = "" if run.error is None else f"  {run.error:.2f} %"
        console.print(f"{run.run:<{width}}  {_coloured(run.state)}{error}", soft_wrap=True)
        columns = max(20, console.width - 2)
        for line in textwrap.wrap(_known(run), columns, break_long_words=False, break_on_hyphens=False):
            console.print(f"  {line}", soft_wrap=True, markup=False)
    tables = Table("table", box=SIMPLE)
    tables.add_column("state", no_wrap=True)
    for column in ("numbers", "planned", "done"):
        tables.add_column(column, justify="right", no_wrap=True)
    tables.add_column("its runs", overflow="fold")
    for table in found.tables:
        its = ", ".join(f"{count} {state}" for state, count in table.runs.items())
        left = f"; {duration(table.seconds_left)} left of what trains" if table.seconds_left else ""
        counts = (str(table.claims), str(table.planned), str(table.answered))
        tables.add_row(table.table, _coloured(table.state), *counts, its + left)
    console.print(tables)
    typer.echo("\n".join([*_said(found), _next(found)]))


def _coloured(state: str) -> str:
    return f"[{_COLOUR.get(state, 'default')}]{state}[/]"


def _known(run: "RunStatus") -> str:
    """What is known of a run beside its state."""
    from pipeline.runner.run_hooks import duration

    parts = []
    if run.stage and run.state != "done":
        parts.append(run.stage.partition("@")[0])
    if beat := run.heartbeat:
        parts.append(f"epoch {beat.epoch} of {beat.epochs}, step {beat.step} of {beat.steps}")
        if beat.loss is not None:
            parts.append(f"loss {beat.loss:.3f}, training error {beat.error:.1f} %")
        if run.state == "running" and beat.images_per_s and beat.seconds_left is not None:
            parts.append(f"{beat.images_per_s:,.0f} images/s, {duration(beat.seconds_left)} left")
    if run.job:
        parts.append(f"{run.job}, log {run.job.log}")
    if run.owner:
        parts.append(f"process {run.owner.pid} on {run.owner.host} since {run.owner.since}")
    if run.state == "made":
        parts.append("its job is over; the command below records what it made")
    elif run.why and run.state not in ("failed", "stopped"):  # how it failed stands below
        parts.append(some(run.why))
    return ", ".join(parts)


def _said(found: "PlanStatus") -> list[str]:
    """What is wrong, under way or not known."""
    from pipeline.artifacts import runs_in_evidence

    said = [f"{run.stage} failed: {some(run.why)}" for run in found.runs if run.state == "failed"]
    for table in found.tables:
        if how := {"failed": "failed", "stale": "is out of date"}.get(table.state):
            said.append(f"tabulate@{table.table} {how}: {some(table.why)}")
    said += [f"{stage} has to run: {some(why)}" for stage, why in found.other_stages.items()]
    if found.running:
        said.append("DVC runs " + ", ".join(f"{stage} (process {pid})" for stage, pid in found.running.items()))
    if found.jobs_unknown:
        said.append(f"What is queued is not known: {found.jobs_unknown}.")
    if not found.asked_dvc:
        said.append(f"What is stale is not known, done only says that a result lies here: {found.why_not}.")
    if kept := len(runs_in_evidence()):
        said.append(f"evidence/ has {kept} finished run{', which counts' if kept == 1 else 's, which count'} as well.")
    return said


def _next(found: "PlanStatus") -> str:
    if found.remedy:
        return f"Next: {found.remedy}."
    waiting = [run for run in found.runs if run.next]
    others = [table for table in found.tables if table.state not in ("done", "running")]
    if not waiting and not others and not found.other_stages:
        return "Next: nothing." if not found.running else "Next: nothing but to wait."
    if len(waiting) == 1:
        return f"Next: {waiting[0].next}; wrn-pipe repro brings everything up to date."
    return "Next: wrn-pipe repro brings everything up to date; wrn-pipe repro --dry says what it would do."
