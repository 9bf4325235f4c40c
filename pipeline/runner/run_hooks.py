"""What goes on around a run's steps (see pipeline/training/hooks.py): states are saved in time, signals heard, and how
far the training is stands on a bar, or in a log, and in a small file for `wrn-pipe status`."""

import json
import math
import sys
import time
from collections import deque
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from pipeline.atomic_write import new_file
from pipeline.progress import Task, progress, say
from pipeline.publication.paper import Paper
from pipeline.runner.interruptions import explain_no_memory, stop_after_step
from pipeline.tracking.mlflow_logger import mirrored
from pipeline.training import hooks
from pipeline.training.hooks import Hooks, RunLogger

SHARE = 0.01
"""Of the time since the last save, what the next one may cost."""
CHEAP_S, EPOCH_SHARE = 0.5, 0.1
"""A checkpoint at the end of an epoch may take this many seconds, or this part of the time since the last one."""
LEAST_SECONDS = 10.0
"""Not more often, however cheap a save is: many trainings may share a disk."""
HEARTBEAT = "heartbeat.json"
FILE_EVERY_S = 10.0
BAR_EVERY_S = 1.0
LINE_EVERY_S = 30.0
"""Where there is no bar: the longest that a log is silent, as far as a step takes less."""
WINDOW_S = 60.0
"""The rate is that of the last minute: a machine gets busier, and other work ends."""


@dataclass
class CheckpointInterval(hooks.CheckpointInterval):
    """Saves every `steps` steps, or with None as often as costs one hundredth of the training's time.

    Steps take from milliseconds to minutes and states from 1 MB to 1 GB, so no fixed number suits: it follows from what
    the last save and the steps since were measured to take.
    """

    steps: int | None = None
    done: int = 0
    """Steps since the last save."""
    seconds: float = LEAST_SECONDS
    """The least between two saves."""
    since: float = field(default_factory=time.monotonic)
    told: bool = False

    def due(self) -> bool:
        if not self.told and not self.done:
            self.since = time.monotonic()  # the first step of a process compiles
        self.done += 1
        return self.done >= self.steps if self.steps else time.monotonic() - self.since >= self.seconds

    def due_at_epoch_end(self) -> bool:
        """A save of 300 MB takes seconds, and on a fast GPU so does an epoch: then not every one is saved."""
        return self.seconds <= CHEAP_S / SHARE or time.monotonic() - self.since >= self.seconds * SHARE / EPOCH_SHARE

    def saved(self, cost: float, where: str) -> None:
        """Says once how many steps a crash can now lose at most."""
        passed, now = time.monotonic() - cost - self.since, time.monotonic()
        self.seconds = max(LEAST_SECONDS, cost / SHARE)
        if not self.told and self.done:
            every = self.steps or max(1, math.ceil(self.seconds * self.done / max(passed, 1e-9)))
            say(f"state saved in {where}, again after every {every} step{'s'[: every > 1]} and every epoch")
            self.told = True
        self.done, self.since = 0, now


@dataclass(frozen=True)
class Heartbeat:
    """What the file says. `epoch`: the one under way, from 1. `step`: how many of it are done. `loss`: mean over the
    samples of this epoch until now; None before the first. `error`: percent of the same samples misclassified.
    `seconds_left`: to the last epoch's end. `written`: Unix time."""

    run: str
    epoch: int
    epochs: int
    step: int
    steps: int
    loss: float | None
    error: float | None
    images_per_s: float | None
    seconds_left: float | None
    written: float


@dataclass
class Monitor(hooks.Monitor):
    """Counts a training's images; the sums behind loss and error are read, which waits for a GPU, only when due.
    `steps`: of one epoch."""

    run: str
    folder: Path
    epochs: int
    steps: int
    batch: int
    bar: Task | None
    latest: Heartbeat | None = None
    _images: int = 0
    _marks: deque[tuple[float, int]] = field(default_factory=deque)
    """Time and images so far, of each `show` of the window."""
    _shown: float = field(default_factory=lambda: time.monotonic())
    _said: float = field(default_factory=lambda: time.monotonic())
    _kept: float = 0.0

    def step(self, images: int) -> bool:
        now = time.monotonic()
        if self._marks:
            self._images += images
        else:  # the first step of a process compiles, so it does not count
            self._marks.append((now, 0))
        if self.bar:
            self.bar.advance(images)
        return now - self._shown >= (BAR_EVERY_S if self.bar else FILE_EVERY_S)

    def show(self, epoch: int, step: int, loss: float, wrong: float) -> None:
        now, seen = time.monotonic(), step * self.batch
        self._shown = now
        rate = None
        if self._images:
            self._marks.append((now, self._images))
            while now - self._marks[1][0] > WINDOW_S:
                self._marks.popleft()
            start, before = self._marks[0]
            rate = (self._images - before) / (now - start) if now > start else None
        left = ((self.epochs - epoch) * self.steps - step) * self.batch
        at = self.run, min(epoch + 1, self.epochs), self.epochs, step, self.steps
        mean, percent = (loss / seen, 100 * wrong / seen) if seen else (None, None)
        self.latest = Heartbeat(*at, mean, percent, rate, left / rate if rate else None, time.time())
        if seen:
            speed = f", {rate:,.0f} images/s" if rate else ""
            words = f"loss {loss / seen:.3f}, error {100 * wrong / seen:.1f} %{speed}"
            if self.bar:
                self.bar.note(words)
            elif now - self._said >= LINE_EVERY_S and step < self.steps:  # else the epoch's own line follows
                self.say(f"{self.run} epoch {epoch + 1}/{self.epochs} step {step}/{self.steps}: {words}")
        if now - self._kept >= FILE_EVERY_S or step in (0, self.steps):
            self._kept = now
            try:
                new_file(self.folder / HEARTBEAT, json.dumps(asdict(self.latest)).encode())
            except OSError as error:  # only what is shown suffers; saving the state, on the same disk, decides
                say(f"cannot write {self.folder / HEARTBEAT} ({error.strerror}): wrn-pipe status will show old figures")

    def say(self, line: str) -> None:
        """Print a line about this training and the time left, after which the log may be silent for a while."""
        self._said = time.monotonic()
        seconds = self.latest.seconds_left if self.latest else None
        say(f"{line}, {duration(seconds)} left" if seconds else line)


def read_heartbeat(folder: Path) -> Heartbeat | None:
    """The last one of the training whose scratch folder this is; None where there is none."""
    with suppress(FileNotFoundError, NotADirectoryError):
        return Heartbeat(**json.loads((folder / HEARTBEAT).read_text(encoding="utf-8")))
    return None


def duration(seconds: float) -> str:
    """`45 s`, `12 min`, `3 h 05 min`, `2 d 04 h`."""
    minutes = round(seconds / 60)
    if seconds < 100:
        return f"{seconds:.0f} s"
    if minutes < 100:
        return f"{minutes} min"
    hours, rest = divmod(minutes, 60)
    return f"{hours} h {rest:02d} min" if hours < 48 else f"{hours // 24} d {hours % 24:02d} h"


@dataclass
class RunHooks(Hooks):
    """Saves states in time, stops after a step when asked to, shows progress, and has MLflow follow."""

    checkpoint_steps: int | None = None
    """Save after every such number of steps; None: as CheckpointInterval finds cheap."""
    mirrored: Paper | None = None
    """MLflow follows the run, as one of this paper; without, somebody else records the files later."""

    stop_requests = staticmethod(stop_after_step)
    explain_no_memory = staticmethod(explain_no_memory)

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

    def run_logger(self, run_id: str, record: dict[str, Any]) -> AbstractContextManager[RunLogger]:
        return mirrored(run_id, record, self.mirrored) if self.mirrored else super().run_logger(run_id, record)
