"""How far each dataset, run and table of the plan has come: read from the files, from DVC, and from who is at work.

What vouches for a dataset's folder is DVC: `dvc status` compares its files (by size, time and inode, by md5 where these
changed) with what the stage wrote, and the stage writes nothing whose content is not the pinned one.
"""

from collections import Counter
from collections.abc import Collection, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Literal
from urllib.parse import urlsplit

import psutil

from pipeline.artifacts import EVALUATIONS, METRICS, SAVED_STATES, SCRATCH, read_record
from pipeline.dataset_config import SPLITS, Dataset, FolderSource, NpmSource, Source
from pipeline.errors import UserError, WrnPipeError
from pipeline.params import PARAMS, Plan
from pipeline.provenance import fingerprint
from pipeline.publication.claims import canonical
from pipeline.publication.paper import Paper
from pipeline.publication.wide_resnet import PAPER
from pipeline.runner.attempts import LockOwner, failure_record, living_owner, noted_owner
from pipeline.runner.dag import Stage, read_dag, with_behind
from pipeline.runner.dvc import ask, holds_a_file, only_absent, running_stages, to_have
from pipeline.runner.jobs import Job, cluster_jobs, evaluated, trained
from pipeline.runner.plan_edit import known_datasets
from pipeline.runner.run_hooks import Heartbeat, read_heartbeat

RAW, BETON = Path("data/raw"), Path("data/beton")
State = Literal["running", "queued", "made", "done", "stale", "failed", "stopped", "not started"]
"""queued: a job for it waits for its turn; made: a job's results lie in scratch, and are not recorded yet."""


@dataclass(frozen=True)
class RunStatus:
    """One run."""

    run: str
    state: State
    stage: str | None = None
    """The stage under way, or that failed or was stopped; of not started: the one to come, where it is not training."""
    why: tuple[str, ...] = ()
    """Of stale and not started: what changed; of failed and stopped: how; of done: which files are not here."""
    error: float | None = None
    """Test error in percent, of the evaluation that lies here, stale or not."""
    heartbeat: Heartbeat | None = None
    owner: LockOwner | None = None
    job: Job | None = None
    next: str | None = None
    """The command that goes on; None for a run that is done or running."""


@dataclass(frozen=True)
class TableStatus:
    """One table of params.yaml. Of its numbers: how many a run can answer, for how many of these the plan has runs, and
    for how many one is done."""

    table: str
    state: State
    why: tuple[str, ...]
    claims: int
    planned: int
    answered: int
    runs: dict[State, int]
    seconds_left: float | None
    """Of the trainings for it that are under way; None where there is none, or none yet known."""


@dataclass(frozen=True)
class PlanStatus:
    """All of the plan."""

    asked_dvc: bool
    """Whether DVC has said what is stale; else done only means that a result lies here."""
    why_not: str | None
    remedy: str | None
    """What to do about `why_not`, where something is to be done."""
    jobs_unknown: str | None
    """Why the cluster could not be asked about its jobs; None where it was, or there are none."""
    other_stages: dict[str, tuple[str, ...]]
    """Stages of no run or table, such as download@cifar10, that are out of date or lack outputs, and why; how it
    failed first, of one that did."""
    running: dict[str, int]
    """Stage that DVC runs -> its process id."""
    runs: tuple[RunStatus, ...]
    tables: tuple[TableStatus, ...]


@dataclass
class _Facts:
    plan: Plan
    stages: dict[str, Stage]
    running: dict[str, int]
    stale: dict[str, tuple[str, ...]] = field(default_factory=dict)
    """Stage -> why DVC would run it, if only because it runs another one."""
    edited: Collection[str] = ()
    """Of these stages those that do not merely lack files, as in a fresh clone: what git has of them is outdated."""
    heartbeats: Sequence[tuple[Path, Heartbeat]] = ()
    """By scratch folder, whatever settings it is of."""
    jobs: dict[str, Job] = field(default_factory=dict)
    """Fingerprint -> its job on the cluster, of those that are not over."""


def plan_status(paper: Paper, plan: Plan) -> PlanStatus:
    """Of all of the plan. Waits for nobody: while DVC is at work, what it works on is not asked about."""
    stages = read_dag(plan)
    running = running_stages(stages)
    facts = _Facts(plan, stages, running)
    why_not = remedy = jobs_unknown = None
    try:
        for pid in running.values():
            with suppress(psutil.NoSuchProcess, psutil.AccessDenied):
                if "--wait-for-lock" not in psutil.Process(pid).cmdline():
                    what = f"process {pid} runs dvc without --wait-for-lock, which a question could cost its result"
                    raise WrnPipeError(what, "")
        changed = ask(stages.values(), running, wait=False)
        for name, before in with_behind(stages, {*changed, *running}).items():
            if name in changed or before:
                how = "runs" if before in running else "is out of date"
                facts.stale[name] = tuple(changed.get(name, [f"{before} {how}"]))
        edits = {name for name, why in changed.items() if not only_absent(why)}
        facts.edited = with_behind(stages, {*edits, *running})
    except WrnPipeError as error:
        why_not, remedy = error.what, error.remedy or None
    try:
        facts.jobs = cluster_jobs()
    except WrnPipeError as error:
        jobs_unknown = error.what
    folders = sorted(SCRATCH.glob("*/"))
    facts.heartbeats = [(folder, beat) for folder in folders if (beat := read_heartbeat(folder))]
    runs = tuple(_run(run_id, facts, asked=why_not is None) for run_id in plan.runs)
    others = {}
    for name in facts.stale:
        whole = all(holds_a_file(Path(out)) for out in stages[name].outs)
        if stages[name].kind not in ("train", "evaluate", "tabulate") and (name in facts.edited or not whole):
            failed = failure_record(name)
            others[name] = (*(failed.lines if failed and not failed.stopped else ()), *facts.stale[name])
    tables = tuple(_table(table, paper, facts, runs) for table in plan.tables)
    return PlanStatus(why_not is None, why_not, remedy, jobs_unknown, others, running, runs, tables)


def _run(run_id: str, facts: _Facts, asked: bool) -> RunStatus:
    train, evaluate = f"train@{run_id}", f"evaluate@{run_id}"
    scratch = SCRATCH / fingerprint(facts.plan, run_id)
    error = None
    with suppress(UserError):
        error = float(read_record(EVALUATIONS / run_id / METRICS, None, "top1_error")["top1_error"])
    job = facts.jobs.get(scratch.name)
    status = partial(RunStatus, run_id, error=error)
    for folder, beat in facts.heartbeats:
        if beat.run == run_id and (owner := living_owner(folder)):
            edited = () if folder == scratch else ("by settings or code that were edited since",)
            return status("running", train, edited, heartbeat=beat, owner=owner, job=job)
    if owner := living_owner(scratch):
        return status("running", train, ("starting",), owner=owner, job=job)
    if job:
        return status(job.activity, train, heartbeat=read_heartbeat(scratch), job=job)
    for stage in (train, evaluate):
        if stage in facts.running:
            return status("running", stage)
    # What training is to make again is not the evaluation's own reason.
    retrained, own = facts.stale.get(train, ()), facts.stale.get(evaluate, ())
    made_again = (train, *facts.stages[train].outs) if retrained else ()
    why = tuple(dict.fromkeys((*retrained, *(reason for reason in own if not reason.startswith(made_again)))))
    if not why and error is not None:
        return status("done")
    if evaluated(facts.plan, run_id, scratch.name).is_dir() and (trained(scratch.name).is_dir() or not retrained):
        return status("made", next=f"wrn-pipe repro --jobs 1 {run_id}")
    saved = any(scratch.glob(SAVED_STATES))
    unfinished = partial(status, next=f"wrn-pipe repro {run_id}")
    halted = partial(unfinished, heartbeat=read_heartbeat(scratch))
    for stage in (train, evaluate):
        # What was stopped before its settings or code were edited is not what would go on now.
        if (failed := failure_record(stage)) and (saved or not failed.stopped):
            return halted("stopped" if failed.stopped else "failed", stage, failed.lines)
    if left := noted_owner(scratch):
        return halted("failed", train, (f"{left} was killed, or the machine went down",))
    if saved:
        return halted("stopped", train)
    if error is not None and train not in facts.edited and evaluate not in facts.edited:
        return status("done", None, (f"its files are not all here: {to_have(run_id)}", *why))
    if error is not None:
        return unfinished("stale", None, why)
    return unfinished("not started", evaluate if asked and train not in facts.stale else None, why)


def _table(table: str, paper: Paper, facts: _Facts, runs: Sequence[RunStatus]) -> TableStatus:
    networks = {run_id: (run.dataset, canonical(run.network)) for run_id, run in facts.plan.runs.items()}
    claims = [claim for claim in paper.claims if claim.table == table and paper.protocol_of(claim) is not None]
    numbers = [(claim.dataset, claim.network) for claim in claims]
    ours = [run for run in runs if networks[run.run] in numbers]
    finished = {networks[run.run] for run in ours if run.state == "done"}
    beats = [run.heartbeat for run in ours if run.state == "running" and run.heartbeat]
    stage = f"tabulate@{table}"
    why = facts.stale.get(stage, ())
    here = all(Path(path).is_file() for path in facts.stages[stage].outs)
    state: State = "done"
    if stage in facts.running:
        state, why = "running", ()
    elif (failed := failure_record(stage)) and (why or not here):
        state, why = "failed", failed.lines
    elif not here:
        state = "not started"
    elif stage in facts.edited:
        state = "stale"
    return TableStatus(
        table=table,
        state=state,
        why=() if state == "done" else why,
        claims=len(numbers),
        planned=sum(number in networks.values() for number in numbers),
        answered=sum(number in finished for number in numbers),
        runs=dict(Counter(run.state for run in ours)),
        seconds_left=max((beat.seconds_left for beat in beats if beat.seconds_left), default=None),
    )


@dataclass(frozen=True)
class Standing:
    """One dataset's line in the list."""

    name: str
    title: str
    planned: bool
    """Whether params.yaml has it; the others are those of the paper that it could have."""
    state: Literal["missing", "fetched", "verified", "converted"]
    bytes_here: int
    """Of its raw arrays and .beton files on this disk."""
    bytes_raw: int
    """That the arrays take, once fetched."""
    representations: dict[str, Literal["missing", "unverified", "converted"]]
    """Kind -> whether its .beton files are here, and as the convert stage wrote them."""
    sources: tuple[str, ...]
    licence: str


def raw_files(name: str, dataset: Dataset) -> list[Path]:
    """The files that a fetched dataset consists of."""
    kinds = ("images.npy", "labels.npy") if dataset.shape else ("images.bin", "index.csv")
    return [RAW / name / f"{split}_{kind}" for split in SPLITS for kind in kinds]


def beton_folders(name: str, plan: Plan) -> dict[str, Path]:
    """Kind of representation -> where params.yaml has the dataset's."""
    return {each.kind: BETON / key for key, each in plan.representations.items() if each.dataset == name}


def standings(plan: Plan) -> list[Standing]:
    """Every dataset of the plan, then every other one that is known. Takes about a second."""
    dag = read_dag(plan)
    running = running_stages(dag)
    asked = [stage for stage in dag.values() if stage.kind in ("download", "convert")]
    why = ask(asked, running) | {name: ["it is at work"] for name in with_behind(dag, running)}

    def doubted(stage: str, *reasons: str) -> bool:
        return any(reason.startswith(("it ", *reasons)) for reason in why.get(stage, ()))

    found = []
    for name, dataset in {**plan.datasets, **known_datasets(PAPER), **plan.datasets}.items():
        folders, download, settings = beton_folders(name, plan), f"download@{name}", f"{PARAMS}: "
        kept: dict[str, Literal["missing", "unverified", "converted"]] = {}
        for kind, folder in folders.items():
            here = all((folder / file).is_file() for file in ("card.json", *(f"{split}.beton" for split in SPLITS)))
            sound = not doubted(f"convert@{folder.name}", "output ") and not doubted(download, settings)
            kept[kind] = "missing" if not here else "converted" if sound else "unverified"
        state: Literal["missing", "fetched", "verified", "converted"] = "missing"
        if kept and set(kept.values()) == {"converted"}:
            state = "converted"
        elif all(path.is_file() for path in raw_files(name, dataset)):
            sound = name in plan.datasets and not doubted(download, "output ", settings)
            state = "verified" if sound else "fetched"
        files = (path for folder in (RAW / name, *folders.values()) for path in folder.rglob("*") if path.is_file())
        size, sources = sum(path.stat().st_size for path in files), tuple(map(_short, dataset.sources))
        about = name, dataset.title, name in plan.datasets
        found.append(Standing(*about, state, size, dataset.size_on_disk, kept, sources, dataset.licence))
    return found


def _short(source: Source) -> str:
    if isinstance(source, NpmSource | FolderSource):
        return str(source)
    return ", ".join(sorted({str(urlsplit(file.archive).hostname) for file in source.files}))
