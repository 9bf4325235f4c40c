"""Progress of long work on stderr: a bar on a terminal, a few plain lines in a log."""

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

LINE_EVERY_S = 10.0
_silent = False


def leave_speaking_to_another() -> None:
    """Say nothing from now on: of the processes that train together one speaks."""
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
    text: str = ""
    on_change: Callable[[], None] = lambda: None

    def advance(self, n: int = 1) -> None:
        self.done += n
        self.on_change()

    def note(self, text: str) -> None:
        """Show a few words on the bar; a log goes without."""
        self.text = text

    def amount(self) -> str:
        """`20.0 MB of 170.5 MB (12 %)`."""

        def units(n: int) -> str:
            return f"{n / 1e6:.1f} MB" if self.unit == "bytes" else f"{n} {self.unit}"

        return f"{units(self.done)} of {units(self.total)} ({self.percent()})" if self.total else units(self.done)

    def percent(self) -> str:
        return f"{100 * self.done // self.total} %" if self.total else ""


@contextmanager
def progress(label: str, total: int | None, unit: str, done: int = 0, notes: bool = False) -> Iterator[Task]:
    """Show how far `label` has come while the block runs, which calls `task.advance(n)`.

    total: None if unknown. unit: plural noun; `bytes` are shown as MB. done: by an earlier attempt. notes: the block
    calls `task.note` as well, and the bar shows percent instead of units.
    """
    task = Task(label, total, unit, done)
    with _bar(task, notes) if sys.stderr.isatty() else _lines(task) as task.on_change:
        yield task


@contextmanager
def _lines(task: Task) -> Iterator[Callable[[], None]]:
    """A line every ten seconds and one at the end, never the same amount twice."""
    started = last = time.monotonic()
    done = -1

    def line(every: float = LINE_EVERY_S) -> None:
        nonlocal last, done
        if time.monotonic() - last >= every and task.done != done:
            last, done = time.monotonic(), task.done
            say(f"{task.label}: {task.amount()}, {last - started:.0f} s")

    try:
        yield line
    finally:
        line(every=0)


@contextmanager
def _bar(task: Task, notes: bool) -> Iterator[Callable[[], None]]:
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
        row = bar.add_task(task.label, total=task.total, amount="")

        def show() -> None:
            amount = f"{task.percent()} {task.text}" if notes else task.amount()
            bar.update(row, completed=task.done, amount=amount)

        show()
        yield show


def counted(number: int, noun: str) -> str:
    """`1 run`, `2 runs`."""
    return f"{number} {noun}" + ("" if number == 1 else "s")
