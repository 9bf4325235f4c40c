"""Progress of long work on stderr: a bar on a terminal, a few plain lines in a log."""

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

LINE_EVERY_S = 10.0
QUIET_S = 1.0
"""Work that crosses several tenths within this time prints one line, not several."""
_silent = False


def leave_speaking_to_another() -> None:
    """This process says nothing from now on: of those that train together one speaks."""
    global _silent
    _silent = True


def say(line: str) -> None:
    """Print one line on stderr now, above a bar if one is drawn."""
    if not _silent:
        print(line, file=sys.stderr, flush=True)


@dataclass
class Task:
    """Counts what is done of one piece of work."""

    label: str
    total: int | None
    unit: str
    done: int
    started: float
    clock: Callable[[], float]
    on_change: "Callable[[Task], None]"
    text: str = field(init=False, default="")
    last_line: float = field(init=False)
    last_tenth: int = field(init=False)
    last_done: int | None = field(init=False, default=None)

    def __post_init__(self) -> None:
        self.last_line = self.started
        self.last_tenth = self._tenth()

    def advance(self, n: int = 1) -> None:
        self.done += n
        self.on_change(self)

    def note(self, text: str) -> None:
        """Show a few words on the bar; a log goes without."""
        self.text = text

    def _tenth(self) -> int:
        return 10 * self.done // self.total if self.total else 0

    def amount(self) -> str:
        """`20.0 MB of 170.5 MB (12 %)`."""
        done = _amount(self.done, self.unit)
        return f"{done} of {_amount(self.total, self.unit)} ({self.percent()})" if self.total else done

    def percent(self) -> str:
        return f"{100 * self.done // self.total} %" if self.total else ""

    def describe(self) -> str:
        """`label: 20.0 MB of 170.5 MB (12 %), 3 s`."""
        return f"{self.label}: {self.amount()}, {self.clock() - self.started:.0f} s"

    def line_if_due(self) -> None:
        """Print a line after a further tenth of the work or after ten seconds, whichever comes first.

        Never the same amount twice: a file may grow after all that was expected of it is there.
        """
        if self.done == self.last_done:
            return
        now, tenth = self.clock(), self._tenth()
        waited = now - self.last_line
        if waited >= LINE_EVERY_S or (tenth > self.last_tenth and waited >= QUIET_S):
            self.last_line, self.last_tenth, self.last_done = now, tenth, self.done
            say(self.describe())


def _amount(n: int, unit: str) -> str:
    return f"{n / 1e6:.1f} MB" if unit == "bytes" else f"{n} {unit}"


@contextmanager
def progress(
    label: str,
    total: int | None,
    unit: str,
    done: int = 0,
    clock: Callable[[], float] = time.monotonic,
    notes: bool = False,
) -> Iterator[Task]:
    """Show how far `label` has come while the block runs; the block calls `task.advance(n)`.

    total: units of the whole, None if unknown. unit: plural noun; `bytes` are shown as MB. done: what an earlier
    attempt already did. notes: the block also calls `task.note`, and the bar makes room by showing percent instead of
    units. The closing line states what was really done, also when the block fails.
    """
    if sys.stderr.isatty():
        with _bar(label, total, unit, done, clock, notes) as task:
            yield task
        return
    task = Task(label, total, unit, done, clock(), clock, Task.line_if_due)
    try:
        yield task
    finally:
        if task.done != task.last_done:
            say(task.describe())


@contextmanager
def _bar(
    label: str, total: int | None, unit: str, done: int, clock: Callable[[], float], notes: bool
) -> Iterator[Task]:
    # Imported on use: rich costs a tenth of a second that a stage without a terminal need not pay.
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
    from rich.table import Column

    columns = (
        TextColumn("{task.description}", table_column=Column(no_wrap=True, overflow="ellipsis")),
        BarColumn(bar_width=10 if notes else 40),
        TextColumn("{task.fields[amount]}", table_column=Column(no_wrap=True)),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
        TextColumn("left"),
    )
    with Progress(*columns, console=Console(stderr=True)) as bar:
        row = bar.add_task(label, total=total, completed=done, amount="")

        def show(task: Task) -> None:
            bar.update(row, completed=task.done, amount=f"{task.percent()} {task.text}" if notes else task.amount())

        task = Task(label, total, unit, done, clock(), clock, show)
        show(task)
        yield task


def counted(number: int, noun: str) -> str:
    """`1 run`, `2 runs`."""
    return f"{number} {noun}" + ("" if number == 1 else "s")
