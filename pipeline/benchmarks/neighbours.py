"""`wrn-pipe bench neighbours`: what foreign processes that keep cores busy cost a training."""

import os
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, nullcontext
from dataclasses import dataclass

from pipeline.benchmarks.measuring import Spread, spread
from pipeline.errors import UserError, WrnPipeError
from pipeline.execution.waiting import POLICY, USERS_OWN, USERS_OWN_BINDING
from pipeline.models.kernels import Kernels


@dataclass(frozen=True)
class Setting:
    """How OpenMP's threads wait, and whether each is bound to a core of its own."""

    variables: dict[str, str]
    bound: bool = False


SETTINGS = {
    "torch's default": Setting({}),
    "ours": Setting(POLICY, bound=True),
    "ours, free to move": Setting(POLICY),
    "asleep, free to move": Setting({"OMP_WAIT_POLICY": "passive"}),
}


@dataclass(frozen=True)
class Waiting:
    """Training steps in one setting, alone and beside a busy process."""

    setting: str
    variables: str
    """And bound, where each thread is on a core of its own."""
    idle_ms: Spread
    busy_ms: Spread
    ratio: float
    """Of the medians."""


@dataclass(frozen=True)
class Neighbours:
    network: str
    threads: int
    cores: int
    busy: int
    """Processes beside the training."""
    fair_share: float
    """Of the cores, divided by all that would compute: what they have to cost at least."""
    rows: tuple[Waiting, ...]


def bench(
    network: str, kernels: Kernels, spins: Sequence[int], busy: int, repeats: int, say: Callable[[str], None]
) -> Neighbours:
    """Measure each setting alone and beside `busy` busy processes, `repeats` times in turn.

    `spins`: further values of GOMP_SPINCOUNT to measure, with threads bound.
    Raises UserError where the user has set how threads wait or where they run, which would be measured instead.
    """
    names = (*USERS_OWN, *USERS_OWN_BINDING)
    if own := {name: os.environ[name] for name in names if name in os.environ and name not in POLICY}:
        name = next(iter(own))
        raise UserError(f"{name}={own[name]} is set, which is neither torch's default nor ours", f"unset {name}")
    settings = SETTINGS | {f"{spin} spins": Setting({"GOMP_SPINCOUNT": str(spin)}, bound=True) for spin in spins}
    seconds: dict[tuple[str, bool], list[float]] = {(name, some): [] for some in (False, True) for name in settings}
    with ExitStack() as stack:
        trainings = {
            name: stack.enter_context(_training(network, kernels, setting)) for name, setting in settings.items()
        }
        started = {name: _ask(training).split() for name, training in trainings.items()}
        for repeat in range(repeats):
            say(f"round {repeat + 1} of {repeats}")
            for some in (False, True):
                with _busy(busy) if some else nullcontext():
                    for name, training in trainings.items():
                        seconds[name, some].append(float(_ask(training)))
    cores, used = len(os.sched_getaffinity(0)), max(int(threads) for threads, *_ in started.values())
    rows = []
    for name, setting in settings.items():
        idle, beside = (spread([1000 * value for value in seconds[name, some]]) for some in (False, True))
        told = " ".join([*(f"{k}={v}" for k, v in setting.variables.items()), *started[name][1:]])
        rows.append(Waiting(name, told, idle, beside, beside.median / idle.median))
    return Neighbours(network, used, cores, busy, max(1.0, (used + busy) / cores), tuple(rows))


@contextmanager
def _training(network: str, kernels: Kernels, setting: Setting) -> Iterator["subprocess.Popen[str]"]:
    """A process that is ready to train and sleeps until it is asked; OpenMP reads its variables once, at its start."""
    environment = {name: value for name, value in os.environ.items() if name not in USERS_OWN}
    command = [sys.executable, "-m", "pipeline.benchmarks.beside", network, kernels, *["bound"] * setting.bound]
    with subprocess.Popen(
        command, env={**environment, **setting.variables}, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as child:
        try:
            yield child
        finally:
            child.terminate()


def _ask(training: "subprocess.Popen[str]") -> str:
    assert training.stdin is not None
    assert training.stdout is not None
    training.stdin.write("\n")
    training.stdin.flush()
    answer = training.stdout.readline()
    if not answer:
        raise WrnPipeError(f"the training ended with {training.wait()}", "see what it says above")
    return answer


@contextmanager
def _busy(processes: int) -> Iterator[None]:
    """Processes of nobody's that compute without a pause."""
    command = [sys.executable, "-c", "print(flush=True)\nwhile True: pass"]
    with ExitStack() as stack:
        for _ in range(processes):
            one = stack.enter_context(subprocess.Popen(command, stdout=subprocess.PIPE))
            stack.callback(one.kill)
            assert one.stdout is not None
            one.stdout.readline()
        yield
