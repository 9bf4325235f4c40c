"""What `wrn-pipe repro` would do: the stages, why each, and what it would cost."""

from collections.abc import Sequence
from dataclasses import dataclass

from pipeline.artifacts import SCRATCH
from pipeline.comparison.training_cost import Cost, training_cost
from pipeline.dataset_config import ArchiveSource, FilesSource
from pipeline.params import Plan
from pipeline.provenance import fingerprint
from pipeline.runner.dag import Stage, read_dag, with_behind
from pipeline.runner.dvc import ask, looked_at
from pipeline.runner.heartbeat import Heartbeat, read
from pipeline.runner.running_stages import running_stages


@dataclass(frozen=True)
class Step:
    """One stage that would run."""

    stage: str
    why: tuple[str, ...]
    cost: Cost | None
    """Of what is left of a training, estimated from multiply-adds; None for other stages."""
    fetches: int | None
    """Bytes that a download gets from its first source, where params.yaml has their number."""
    unfinished: Heartbeat | None
    """How far an earlier attempt at the training has come, from where it would go on."""
    only_if: str | None
    """The stage that must give other files than before, or this one is skipped; None where it runs anyway."""


def steps(plan: Plan, targets: Sequence[str], force: bool = False, fresh: bool = False) -> list[Step]:
    """In the order in which they run, without what runs already. Raises as `resolve` and `changes` do.

    It waits while another DVC holds the lock. That DVC will restore a stage which ran before with equal inputs from its
    cache instead of running it is not foreseen.
    """
    stages = read_dag(plan)
    seen = {name: stages[name] for name in looked_at(plan, targets, stages)}
    running = running_stages(seen)
    changed = ask(seen.values(), running, wait=True)
    found = []
    for name, before in with_behind(seen, seen if force else {*changed, *running}).items():
        if name not in running:
            why = changed.get(name) or (["--force"] if force else [f"{before} comes before it"])
            only_if = None if force or name in changed else before
            found.append(_step(stages[name], why, only_if, plan, fresh))
    return found


def _step(stage: Stage, why: Sequence[str], only_if: str | None, plan: Plan, fresh: bool) -> Step:
    cost, unfinished = None, None
    if stage.kind == "train":
        run = plan.run(stage.key)
        protocol = plan.protocols[run.protocol]
        cost = training_cost(run.network, plan.datasets[run.dataset].splits["train"], protocol)
        unfinished = None if fresh else read(SCRATCH / fingerprint(plan, stage.key))
        if unfinished:
            done = (unfinished.epoch - 1 + unfinished.step / unfinished.steps) / unfinished.epochs
            cost = cost * (1 - done)
    fetches = None
    if stage.kind == "download":
        first = plan.datasets[stage.key].sources[0]
        if isinstance(first, ArchiveSource | FilesSource):
            fetches = sum(file.bytes for file in first.files)
    return Step(stage.name, tuple(why), cost, fetches, unfinished, only_if)
