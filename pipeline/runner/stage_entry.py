"""How a stage starts and ends: by its command line, its errors in two lines, a signal at once, its failure recorded."""

import inspect
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

from pipeline.errors import UserError, exit_on_error
from pipeline.params import Plan
from pipeline.runner.failure_record import keep_failure_record
from pipeline.runner.interruptions import NOTHING_HALF_DONE, stop_at_once


def run_stage(main: Callable[..., None], kept: Callable[..., str] | None = None) -> None:
    """Call a stage's `main` with the words of its command line; options are for callers in Python.

    kept: says, of the same words, what the stage leaves behind when a signal stops it; None: nothing.
    """
    words = sys.argv[1:]
    with exit_on_error():
        module = main.__globals__["__spec__"].name
        wanted = [p.name for p in inspect.signature(main).parameters.values() if p.kind != p.KEYWORD_ONLY]
        if len(words) != len(wanted):
            usage = " ".join(["python -m", module, *(name.upper() for name in wanted)])
            raise UserError(f"{len(words)} words where the stage takes {len(wanted)}", usage)
        with stage_attempt("@".join([module.removeprefix("stages."), *words]), kept and (lambda: kept(*words))):
            main(*words)


@contextmanager
def stage_attempt(stage: str, kept: Callable[[], str] | None = None) -> Iterator[None]:
    """The block runs `stage`, such as convert@cifar10-rgb: a signal stops it at once, and how it failed is recorded.

    A training sets handlers of its own, which save its state.
    """
    with keep_failure_record(stage), stop_at_once(kept or (lambda: NOTHING_HALF_DONE), f"wrn-pipe repro {stage}"):
        yield


def mirror(plan: Plan, run_ids: Sequence[str]) -> None:
    """Have MLflow show runs whose files were just published. Its failures are said, not raised."""
    from pipeline.publication.wide_resnet import PAPER
    from pipeline.tracking.sync import log_runs

    log_runs(PAPER, plan, run_ids)
