"""`wrn-pipe bench neighbours`: what a foreign process that keeps a core busy costs a training."""

import os
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, nullcontext
from dataclasses import dataclass
from typing import cast

from pipeline.benchmarks.measuring import Spread, spread
from pipeline.errors import UserError, WrnPipeError
from pipeline.execution.waiting import POLICY, USERS_OWN
from pipeline.models.kernels import Kernels

SETTINGS: dict[str, dict[str, str]] = {"torch's default": {}, "ours": POLICY, "asleep": {"OMP_WAIT_POLICY": "passive"}}
"""How OpenMP's threads wait."""
BATCH, MEASURE_S = 128, 2.0
"""Steps are repeated for so many seconds in each round."""
WARM_S = 1.0
"""And for so many before: a process that has slept for a while may have lost its pages to others."""


@dataclass(frozen=True)
class Waiting:
    """Training steps in one setting, alone and beside a busy process."""

    setting: str
    variables: str
    idle_ms: Spread
    busy_ms: Spread
    ratio: float
    """Of the medians."""


@dataclass(frozen=True)
class Neighbours:
    network: str
    threads: int
    cores: int
    fair_share: float
    """Of the cores, divided by all that would compute: what a neighbour has to cost at least."""
    rows: tuple[Waiting, ...]


def bench(network: str, kernels: Kernels, spins: Sequence[int], repeats: int, say: Callable[[str], None]) -> Neighbours:
    """Measure each setting alone and beside one busy process, `repeats` times in turn.

    `spins`: further values of GOMP_SPINCOUNT to measure.
    Raises UserError where the user has set how threads wait, which would be measured instead.
    """
    if own := {name: os.environ[name] for name in USERS_OWN if name in os.environ and name not in POLICY}:
        name = next(iter(own))
        raise UserError(f"{name}={own[name]} is set, which is neither torch's default nor ours", f"unset {name}")
    settings = SETTINGS | {f"{spin} spins": {"GOMP_SPINCOUNT": str(spin)} for spin in spins}
    seconds: dict[tuple[str, bool], list[float]] = {(name, busy): [] for busy in (False, True) for name in settings}
    with ExitStack() as stack:
        trainings = {
            name: stack.enter_context(_training(network, kernels, variables)) for name, variables in settings.items()
        }
        threads = {name: int(_ask(training)) for name, training in trainings.items()}
        for repeat in range(repeats):
            say(f"round {repeat + 1} of {repeats}")
            for busy in (False, True):
                with _busy() if busy else nullcontext():
                    for name, training in trainings.items():
                        seconds[name, busy].append(float(_ask(training)))
    cores, used = len(os.sched_getaffinity(0)), max(threads.values())
    rows = []
    for name, variables in settings.items():
        idle, beside = (spread([1000 * value for value in seconds[name, busy]]) for busy in (False, True))
        told = " ".join(f"{k}={v}" for k, v in variables.items())
        rows.append(Waiting(name, told, idle, beside, beside.median / idle.median))
    return Neighbours(network, used, cores, max(1.0, (used + 1) / cores), tuple(rows))


@contextmanager
def _training(network: str, kernels: Kernels, variables: dict[str, str]) -> Iterator["subprocess.Popen[str]"]:
    """A process that is ready to train and sleeps until it is asked; OpenMP reads its variables once, at its start."""
    environment = {name: value for name, value in os.environ.items() if name not in USERS_OWN}
    command = [sys.executable, "-m", "pipeline.benchmarks.neighbours", network, kernels]
    with subprocess.Popen(
        command, env={**environment, **variables}, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
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
def _busy() -> Iterator[None]:
    """A process of nobody's that computes without a pause."""
    with subprocess.Popen([sys.executable, "-c", "print(flush=True)\nwhile True: pass"], stdout=subprocess.PIPE) as one:
        try:
            assert one.stdout is not None
            one.stdout.readline()
            yield
        finally:
            one.kill()


def _train(network: str, kernels: Kernels) -> None:
    """In the child: asked once, its threads; then, each time, the mean seconds of a step."""
    os.environ.setdefault("THP_MEM_ALLOC_ENABLE", "1")
    import torch

    from pipeline.benchmarks.measuring import seconds_of
    from pipeline.benchmarks.steps import on_random_images
    from pipeline.training.device import prepare

    prepare(torch.device("cpu"))
    step = on_random_images(network, BATCH, 32, True, kernels, update=True)
    for number, _ in enumerate(sys.stdin):
        if number:
            seconds_of(step, WARM_S)
        print(seconds_of(step, MEASURE_S) if number else torch.get_num_threads(), flush=True)


if __name__ == "__main__":
    network, kernels = sys.argv[1:]
    _train(network, cast(Kernels, kernels))
