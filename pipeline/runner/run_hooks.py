"""What goes on around a run's steps: see pipeline/training/hooks.py."""

import math
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pipeline.progress import Task, progress, say
from pipeline.publication.paper import Paper
from pipeline.runner.heartbeat import Monitor
from pipeline.runner.interruptions import explain_no_memory, stop_after_step
from pipeline.tracking.mlflow_logger import mirrored
from pipeline.training import hooks
from pipeline.training.hooks import Hooks, RunLogger
from pipeline.training.openmp_threads import Yielding, on_own_core

SHARE = 0.01
"""Of the time since the last save, what the next one may cost."""
LEAST_SECONDS = 10.0
"""Not more often, however cheap a save is: many trainings may share a disk."""


@dataclass
class CheckpointInterval(hooks.CheckpointInterval):
    """Saves every `steps` steps, or with None as often as costs one hundredth of the training's time.

    Steps take from milliseconds to minutes and states from 1 MB to 1 GB, so no fixed number suits: it follows from what
    the last save and the steps since were measured to take.
    """

    steps: int | None = None
    done: int = 0
    """Steps since the last save."""
    cost: float = 0.0
    """Seconds that the last save took."""
    since: float = field(default_factory=time.monotonic)
    told: bool = False

    @property
    def seconds(self) -> float:
        """The least between two saves."""
        return max(LEAST_SECONDS, self.cost / SHARE)

    def due(self) -> bool:
        self.done += 1
        return self.done >= self.steps if self.steps else time.monotonic() - self.since >= self.seconds

    def saved(self, cost: float, where: str) -> None:
        """As of the base. Says once how many steps a crash can now lose at most."""
        passed, now = time.monotonic() - cost - self.since, time.monotonic()
        self.cost = cost
        if not self.told and self.done:
            every = self.steps or max(1, math.ceil(self.seconds * self.done / max(passed, 1e-9)))
            say(f"state saved in {where}, again after every {every} step{'s'[: every > 1]} and every epoch")
            self.told = True
        self.done, self.since = 0, now


@dataclass
class RunHooks(Hooks):
    """Saves states in time, stops after a step when asked to, shows progress, and has MLflow follow."""

    checkpoint_steps: int | None = None
    """Save after every such number of steps; None: as CheckpointInterval finds cheap."""
    mirrored: Paper | None = None
    """MLflow follows the run, as one of this paper; without, somebody else records the files later."""

    stop_requests = staticmethod(stop_after_step)
    explain_no_memory = staticmethod(explain_no_memory)
    own_cores = staticmethod(on_own_core)

    def checkpoint_interval(self) -> CheckpointInterval:
        return CheckpointInterval(self.checkpoint_steps)

    @contextmanager
    def monitor(
        self, run_id: str, scratch: Path, epochs: int, steps: int, batch_size: int, done: int, leads: bool
    ) -> Iterator[Monitor]:
        bar: AbstractContextManager[Task | None] = nullcontext()
        if leads and sys.stderr.isatty():
            bar = progress(run_id, epochs * steps * batch_size, "images", done * batch_size, notes=True)
        with bar as task:
            yield Monitor(run_id, scratch, epochs, steps, batch_size, task)

    @contextmanager
    def make_way(self) -> Iterator[Callable[[], None]]:
        with Yielding() as yielding:
            yield yielding.look

    def run_logger(self, run_id: str, record: dict[str, Any]) -> AbstractContextManager[RunLogger]:
        return mirrored(run_id, record, self.mirrored) if self.mirrored else super().run_logger(run_id, record)
