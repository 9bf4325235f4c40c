"""`wrn-pipe bench neighbours`: what foreign processes that keep cores busy cost a training."""

import os
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, nullcontext
from dataclasses import dataclass
from statistics import mean

from pipeline.benchmarks.beside import Threads
from pipeline.benchmarks.measuring import Spread, spread
from pipeline.errors import UserError, WrnPipeError
from pipeline.params import Kernels
from pipeline.runner.waiting import POLICY, USERS_OWN, USERS_OWN_BINDING


@dataclass(frozen=True)
class Setting:
    """How OpenMP's threads wait, and where they run."""

    variables: dict[str, str]
    threads: Threads = "free"


SETTINGS = {
    "torch's default": Setting({}),
    "ours": Setting(POLICY, "yielding"),
    "ours, never making way": Setting(POLICY, "bound"),
    "ours, free to move": Setting(POLICY),
    "asleep, free to move": Setting({"OMP_WAIT_POLICY": "passive"}),
}


@dataclass(frozen=True)
class Waiting:
    """Training steps in one setting: alone, beside busy processes, and of two such trainings at once."""

    setting: str
    variables: str
    """And where threads run: bound is each on a core of its own."""
    idle_ms: Spread
    busy_ms: Spread
    twins_ms: Spread
    """Of each of the two."""
    ratio: float
    """Of the medians, beside busy processes and alone."""
    twins_ratio: float


@dataclass(frozen=True)
class Neighbours:
    network: str
    threads: int
    cores: int
    busy: int
    """Processes beside the training."""
    fair_share: float
    """What the busy processes would cost if the training, as one of the sessions, got its share of the cores."""
    rows: tuple[Waiting, ...]


def bench(
    network: str, kernels: Kernels, spins: Sequence[int], busy: int, repeats: int, say: Callable[[str], None]
) -> Neighbours:
    """Measure each setting alone, beside `busy` busy processes and beside its like, `repeats` times in turn.

    `spins`: further values of GOMP_SPINCOUNT to measure, with threads bound.
    Raises UserError where the user has set how threads wait or where they run, which would be measured instead.
    """
    names = (*USERS_OWN, *USERS_OWN_BINDING)
    if own := {name: os.environ[name] for name in names if name in os.environ and name not in POLICY}:
        name = next(iter(own))
        raise UserError(f"{name}={own[name]} is set, which is neither torch's default nor ours", f"unset {name}")
    settings = SETTINGS | {f"{spin} spins": Setting({"GOMP_SPINCOUNT": str(spin)}, "bound") for spin in spins}
    seconds: dict[tuple[str, str], list[float]] = {}
    with ExitStack() as stack:
        trainings = {
            name: [stack.enter_context(_training(network, kernels, setting)) for _ in range(2)]
            for name, setting in settings.items()
        }
        started = {name: _ask(*twins)[0].split() for name, twins in trainings.items()}
        for repeat in range(repeats):
            say(f"round {repeat + 1} of {repeats}")
            for beside in ("nobody", "busy", "twin"):
                with _busy(busy) if beside == "busy" else nullcontext():
                    for name, twins in trainings.items():
                        answers = _ask(*twins[: 2 if beside == "twin" else 1])
                        seconds.setdefault((name, beside), []).append(mean(map(float, answers)))
    cores, used = len(os.sched_getaffinity(0)), max(int(threads) for threads, *_ in started.values())
    rows = []
    for name, setting in settings.items():
        alone, some, twins_ms = (
            spread([1000 * value for value in seconds[name, beside]]) for beside in ("nobody", "busy", "twin")
        )
        told = " ".join([*(f"{k}={v}" for k, v in setting.variables.items()), *started[name][1:]])
        ratios = some.median / alone.median, twins_ms.median / alone.median
        rows.append(Waiting(name, told, alone, some, twins_ms, *ratios))
    share = max(cores / (busy + 1), cores - busy)  # each of the others takes a core at most
    return Neighbours(network, used, cores, busy, max(1.0, used / share), tuple(rows))


@contextmanager
def _training(network: str, kernels: Kernels, setting: Setting) -> Iterator["subprocess.Popen[str]"]:
    """A process that is ready to train and sleeps until it is asked; OpenMP reads its variables once, at its start."""
    environment = {name: value for name, value in os.environ.items() if name not in USERS_OWN}
    command = [sys.executable, "-m", "pipeline.benchmarks.beside", network, kernels, setting.threads]
    with subprocess.Popen(
        command, env={**environment, **setting.variables}, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as child:
        try:
            yield child
        finally:
            child.terminate()


def _ask(*trainings: "subprocess.Popen[str]") -> list[str]:
    """What each answers; all are asked at once."""
    for training in trainings:
        assert training.stdin is not None
        training.stdin.write("\n")
        training.stdin.flush()
    answers = []
    for training in trainings:
        assert training.stdout is not None
        answers.append(training.stdout.readline())
        if not answers[-1]:
            raise WrnPipeError(f"the training ended with {training.wait()}", "see what it says above")
    return answers


@contextmanager
def _busy(processes: int) -> Iterator[None]:
    """Processes of nobody's that compute without a pause; in sessions of their own, as those of other windows and
    other users are: Linux shares out the cores between sessions first."""
    command = [sys.executable, "-c", "print(flush=True)\nwhile True: pass"]
    with ExitStack() as stack:
        for _ in range(processes):
            one = stack.enter_context(subprocess.Popen(command, stdout=subprocess.PIPE, start_new_session=True))
            stack.callback(one.kill)
            assert one.stdout is not None
            one.stdout.readline()
        yield
