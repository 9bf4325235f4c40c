"""What goes on around the steps of a run that a stage, a job or a command trains: see pipeline/training/hooks.py."""

import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from typing import Any

from pipeline.progress import Task, progress
from pipeline.runner.checkpoint_interval import CheckpointInterval
from pipeline.runner.heartbeat import Monitor
from pipeline.runner.training_interruptions import explain_no_memory, stop_after_step
from pipeline.runner.waiting import Yielding, on_own_core
from pipeline.tracking.mlflow_logger import mirrored
from pipeline.training.hooks import Hooks, RunLogger


class RunHooks(Hooks):
    """Saves states in time, stops after a step when asked to, shows progress, and has MLflow follow."""

    def __init__(self, checkpoint_steps: int | None = None, mirrored: bool = True) -> None:
        """checkpoint_steps: save after every so many steps; None: as CheckpointInterval finds cheap. mirrored: MLflow
        follows the run; without, somebody else records the files later."""
        self.checkpoint_steps, self.mirrored = checkpoint_steps, mirrored

    def checkpoint_interval(self) -> CheckpointInterval:
        return CheckpointInterval(self.checkpoint_steps)

    def stop_requests(self, alone: bool) -> AbstractContextManager[list[int]]:
        return stop_after_step(alone)

    def explain_no_memory(self, run_id: str, where: Callable[[], str]) -> AbstractContextManager[None]:
        return explain_no_memory(run_id, where)

    @contextmanager
    def monitor(
        self, run_id: str, scratch: Path, epochs: int, steps: int, batch_size: int, done: int, leads: bool
    ) -> Iterator[Monitor]:
        bar: AbstractContextManager[Task | None] = nullcontext()
        if leads and sys.stderr.isatty():
            bar = progress(run_id, epochs * steps * batch_size, "images", done * batch_size, notes=True)
        with bar as task:
            yield Monitor(run_id, scratch, epochs, steps, batch_size, task)

    def own_cores(self) -> AbstractContextManager[None]:
        return on_own_core()

    @contextmanager
    def make_way(self) -> Iterator[Callable[[], None]]:
        with Yielding() as yielding:
            yield yielding.look

    def run_logger(self, run_id: str, record: dict[str, Any]) -> AbstractContextManager[RunLogger]:
        return mirrored(run_id, record) if self.mirrored else super().run_logger(run_id, record)
