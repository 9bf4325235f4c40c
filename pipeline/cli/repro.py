"""wrn-pipe repro: bring results up to date with params.yaml."""

import csv
import sys
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from shlex import join
from signal import SIGINT, SIGTERM
from typing import TYPE_CHECKING, Annotated, Any

import typer
from typer import Argument, Option

from pipeline.cli.options import Budget, of_plan, planned_stages
from pipeline.cli.output import print_json, some
from pipeline.errors import StoppedError, UserError
from pipeline.progress import counted
from pipeline.runner.interruptions import time_budget

if TYPE_CHECKING:
    from pipeline.comparison.training_cost import Cost
    from pipeline.params import Plan
    from pipeline.runner.dag import Stage
    from pipeline.runner.jobs import Place
    from pipeline.runner.run_hooks import Heartbeat


def _targets() -> list[str]:
    stages = planned_stages()
    names = [*of_plan("runs")(), *(stage.kind for stage in stages), *(stage.name for stage in stages)]
    return list(dict.fromkeys(names))


def repro(
    targets: Annotated[list[str] | None, Argument(help="What to run. Default: all.", autocompletion=_targets)] = None,
    dry: Annotated[bool, Option("--dry", help="Show what would run, why, and what it costs; run nothing.")] = False,
    force: Annotated[bool, Option("--force", "-f", help="Run the targets even when nothing changed.")] = False,
    keep_going: Annotated[bool, Option("--keep-going", "-k", help="After a failure go on with the others.")] = False,
    fresh: Annotated[bool, Option("--fresh", help="Forget what unfinished trainings have saved.")] = False,
    jobs: Annotated[int | None, Option("--jobs", "-j", min=1, help="Train this number of runs at once here.")] = None,
    slurm: Annotated[bool, Option("--slurm", help="Train and evaluate each run in a job of this cluster.")] = False,
    partition: Annotated[str | None, Option(help="--slurm: of the jobs.")] = None,
    gpus: Annotated[int, Option(min=0, help="--slurm: GPUs of a job.")] = 0,
    cpus: Annotated[int, Option(min=1, help="--slurm: cores of a job, which it uses as threads.")] = 1,
    time: Annotated[str, Option(help="--slurm: of a job; what takes longer goes on in the next.")] = "8h",
    max_jobs: Annotated[int, Option(min=1, help="--slurm: jobs at work at the same time.")] = 20,
    sbatch: Annotated[list[str] | None, Option(help="--slurm: further options, such as account=vision.")] = None,
    budget: Budget = None,
    as_json: Annotated[bool, Option("--json", help="With --dry: print JSON.")] = False,
    pull: Annotated[bool, Option("--pull", help="Take from the DVC remote what others have made.")] = False,
    push: Annotated[bool, Option("--push", help="Afterwards send what was made to the DVC remote.")] = False,
) -> None:
    """Run every stage that is out of date, with `dvc repro`, and say when results differ from the committed ones.

    TARGETS are stages (train@RUN), groups of them (train), run ids or patterns of run ids.

    With --jobs, each on its own GPU or share of the cores, or --slurm the runs are trained and evaluated side by side,
    outside DVC; then all is recorded at once. A job that fails is tried three times. Ctrl-C leaves jobs of a cluster
    running; the same command finds them again.

    Exit code: 0 done, 1 a stage failed, 2 a usage error, 75 the time of --for is over, 130 or 143 stopped by a signal.
    """
    from pipeline.runner import dvc
    from pipeline.runner.params_file import load

    targets, again = targets or [], join(["wrn-pipe", *sys.argv[1:]])
    place = _place(jobs, slurm, max_jobs, time, cpus, {"partition": partition, "gpus": gpus, "sbatch": sbatch})
    for wrong, what, remedy in (
        (dry and (pull or push), "--dry with --pull or --push: what the remote has is not foreseen", "leave one out"),
        (as_json and not dry, "--json without --dry", "add --dry, or ask wrn-pipe status --json afterwards"),
        (pull and force, "--pull with --force: what is made again is not taken from elsewhere", "give one of them"),
        (pull and place, "--pull with --jobs or --slurm", "take first what the remote has: wrn-pipe repro --pull"),
    ):
        if wrong:
            raise UserError(what, remedy)
    plan = load()
    if dry:
        _dry(plan, targets, force, fresh, as_json)
        return
    if pull or push:
        dvc.check_remote(writing=push)
    if fresh:
        from pipeline.runner.attempts import discard, hold

        for run_id, scratch in dvc.trainings(plan, targets).items():
            with hold(scratch, run_id):
                discard(scratch)
    with time_budget(budget, again, partial(dvc.how_far, plan, targets)):
        if place is not None:
            from pipeline.runner.job_driver import repro_by_jobs  # imports a twentieth of a repro with nothing to do

            code = repro_by_jobs(plan, targets, place, again, force)
        else:
            options = [flag for flag, on in (("--force", force), ("--keep-going", keep_going), ("--pull", pull)) if on]
            code = dvc.repro(plan, targets, options)
        if budget and code == 128 + SIGTERM:
            raise StoppedError(SIGTERM, "stopped, the stage has said where", f"go on with: {again}")
    if code:
        if code not in (128 + SIGINT, 128 + SIGTERM):  # else the stage has said how to go on
            typer.echo(f"Go on with: {again}. What is done stays done; wrn-pipe status shows it.", err=True)
        raise typer.Exit(code)
    if push:
        dvc.push(plan, targets)
    _explain_changes()


def _place(jobs: int | None, slurm: bool, max_jobs: int, time: str, cpus: int, more: dict[str, Any]) -> "Place | None":
    """Where the runs are trained by what the options say, of which `more` need --slurm; None: here, one by one."""
    if jobs is not None and slurm:
        raise UserError("--jobs with --slurm", "give one of them: --max-jobs limits the jobs of a cluster")
    if not slurm and (wrong := [option for option, value in more.items() if value]):
        raise UserError(f"--{wrong[0]} without --slurm", "add --slurm, or leave it out")
    if jobs is None and not slurm:
        return None
    from pipeline.runner.jobs import Slots, Slurm, minutes, need_slurm, slots, visible_gpus
    from pipeline.runner.params_file import load

    if jobs is not None:
        return Slots(slots(jobs, visible_gpus() if load().device != "cpu" else []))
    need_slurm()
    further: dict[str, Any] = {"requeue": True}
    for option in more["sbatch"] or ():
        name, _, value = option.partition("=")
        if not (name and value):
            raise UserError(f"--sbatch {option}", "write NAME=VALUE without dashes, such as --sbatch account=vision")
        further[name] = value
    options = {"time": minutes(time), "partition": more["partition"], "gpus_per_node": more["gpus"] or None}
    return Slurm(max_jobs, {**options, "cpus_per_task": cpus, "additional_parameters": further})


@dataclass(frozen=True)
class _Step:
    """One stage that would run."""

    stage: str
    why: list[str]
    only_if: str | None
    """The stage that must give other files than before, or this one is skipped; None where it runs anyway."""
    cost: "Cost | None" = None
    """Of what is left of a training, estimated from multiply-adds."""
    fetches: int | None = None
    """Bytes that a download gets from its first source, where params.yaml has their number."""
    unfinished: "Heartbeat | None" = None
    """How far an earlier attempt at the training has come, from where it would go on."""

    def __str__(self) -> str:
        cost = f" ({self.cost})" if self.cost else ""
        fetches = f" ({self.fetches / 1e6:,.0f} MB to fetch)" if self.fetches else ""
        at = f", going on in epoch {self.unfinished.epoch} of {self.unfinished.epochs}" if self.unfinished else ""
        return f"{self.stage}: {some(self.why)}{cost}{fetches}{at}"


def _dry(plan: "Plan", targets: list[str], force: bool, fresh: bool, as_json: bool) -> None:
    """Show what would run, in order, without what runs already. Waits while another DVC holds the lock.

    That DVC will restore a stage which ran before with equal inputs from its cache is not foreseen.
    """
    from pipeline.runner.dag import read_dag, with_behind
    from pipeline.runner.dvc import ask, looked_at, running_stages

    stages = read_dag(plan)
    seen = {name: stages[name] for name in looked_at(plan, targets, stages)}
    running = running_stages(seen)
    changed = ask(seen.values(), running, wait=True)
    found = []
    for name, before in with_behind(seen, seen if force else {*changed, *running}).items():
        if name not in running:
            why = changed.get(name) or (["--force"] if force else [f"{before} comes before it"])
            only_if = None if force or name in changed else before
            found.append(_Step(name, why, only_if, **_price(plan, seen[name], fresh)))
    if as_json:
        print_json(found)
        return
    for step in found:
        typer.echo(step)
    costs = [step.cost for step in found if step.cost]
    if not found:
        typer.echo("Nothing would run: everything is up to date.")
    elif costs:
        total = sum(costs[1:], start=costs[0])
        typer.echo(f"\n{counted(len(costs), 'training')}: {total}, estimated from multiply-adds.")
        typer.echo("wrn-pipe estimate measures this machine.")
    if any(step.only_if for step in found):
        typer.echo("What only comes after another stage is skipped if that one gives the same files as before.")


def _price(plan: "Plan", stage: "Stage", fresh: bool) -> dict[str, Any]:
    """What a training or a download takes, as fields of _Step."""
    from pipeline.artifacts import SCRATCH
    from pipeline.comparison.training_cost import training_cost
    from pipeline.dataset_config import ArchiveSource, FilesSource
    from pipeline.provenance import fingerprint
    from pipeline.runner.run_hooks import read_heartbeat

    if stage.kind == "train":
        run = plan.run(stage.key)
        cost = training_cost(run.network, plan.datasets[run.dataset].splits["train"], plan.protocols[run.protocol])
        beat = None if fresh else read_heartbeat(SCRATCH / fingerprint(plan, stage.key))
        done = (beat.epoch - 1 + beat.step / beat.steps) / beat.epochs if beat else 0.0
        return {"cost": cost * (1 - done), "unfinished": beat}
    first = plan.datasets[stage.key].sources[0] if stage.kind == "download" else None
    if isinstance(first, ArchiveSource | FilesSource):
        return {"fetches": sum(file.bytes for file in first.files)}
    return {}


def _explain_changes() -> None:
    """Say why results of runs differ from the committed ones although nothing was edited: the processor, mostly."""
    from pipeline.dvc_lock import LOCK, content, locked
    from pipeline.provenance import git

    before, after, path = git("show", f"HEAD:./{LOCK}"), content(), Path("results/runs.csv")
    if before == after:
        return
    old, new = locked(before), locked(after)
    both = {name: (old[name], new[name]) for name in new if name.startswith("train@") and name in old}
    # All that dvc.lock says is the same, but for what came out.
    repeated = [name for name, (was, now) in both.items() if {**was, "outs": now["outs"]} == now != was]
    texts = git("show", f"HEAD:./{path}"), path.read_text(encoding="utf-8") if path.is_file() else ""
    committed, here = ({row["run"]: row for row in csv.DictReader(text.splitlines())} for text in texts)
    if not repeated:
        return
    typer.echo("\nSame inputs, other results than in the checked-out commit:")
    for run in (name.removeprefix("train@") for name in repeated):
        then, now = committed.get(run), here.get(run)
        if then and now:
            keys = ("device", "processor", "capability", "threads", "kernels", "torch")
            why = "; ".join(f"{key} {then[key]} -> {now[key]}" for key in keys if then[key] != now[key])
            why = why or "the same kind of processor by name, so another microcode or an unrepeatable kernel"
            typer.echo(f"  {run}: top-1 error {then['top1_error']} -> {now['top1_error']} ({why})")
    diff = git("diff", "--name-only", "--relative", "HEAD", "--", str(LOCK), "results", "models", "evaluations")
    typer.echo(
        "Floating-point sums depend on the processor, the number of threads and the compiler.\n"
        f"Changed therefore, among files that git tracks: {', '.join(diff.split())}.\n"
        "Commit them to keep these results. Left as they are, they harm neither make test nor another make reproduce."
    )
