"""What processes that keep cores busy cost a training on the CPU, by how OpenMP's threads wait for each other.

Milliseconds a step: alone, beside busy processes, and of two such trainings at once. Takes minutes; leave the machine
alone meanwhile. docs/reference/speed.md has what was measured.
"""

import argparse
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, nullcontext
from functools import cache
from statistics import mean

from pipeline.benchmarks.measuring import child, seconds_of, spread
from pipeline.training.openmp_threads import POLICY, USERS_OWN, Yielding, bind_threads, on_own_core

SETTINGS: dict[str, tuple[dict[str, str], str]] = {
    "torch's default": ({}, "free"),
    "ours": (POLICY, "yielding"),
    "ours, never making way": (POLICY, "bound"),
    "ours, free to move": (POLICY, "free"),
    "asleep, free to move": ({"OMP_WAIT_POLICY": "passive"}, "free"),
}
"""Name -> OpenMP's variables, and where threads run: anywhere, on their own cores or making way, on their own cores."""
WARM_S, MEASURE_S = 4.0, 2.0
"""A process that has slept may have lost its pages, and one that makes way takes a moment to notice who is there."""


def start(variables: dict[str, str], threads: str) -> None:
    """In a process of its own, before torch is imported, which is when OpenMP reads its variables."""
    for name in USERS_OWN:
        os.environ.pop(name, None)
    os.environ.update(variables, THP_MEM_ALLOC_ENABLE="1")
    if threads != "free":
        bind_threads("fused")


@cache
def training_step(network: str) -> Callable[[], None]:
    import torch

    from pipeline.benchmarks.train_bench import default, random_batches, warm_step
    from pipeline.training.device import prepare

    prepare(torch.device("cpu"))
    return warm_step(network, default(bf16=True), random_batches(128, 32))


def milliseconds(network: str, threads: str) -> float:
    """In that process: of a step."""
    step = training_step(network)
    yielding = Yielding() if threads == "yielding" else None

    def step_and_look() -> None:
        step()
        if yielding:
            yielding.look()

    with yielding or on_own_core():
        seconds_of(step_and_look, WARM_S)
        return 1000 * seconds_of(step_and_look, MEASURE_S)


@contextmanager
def busy(processes: int) -> Iterator[None]:
    """Processes that compute without a pause, in sessions of their own, as those of other users are: Linux shares out
    the cores between sessions first."""
    with ExitStack() as stack:
        for _ in range(processes):
            command = [sys.executable, "-c", "print(flush=True)\nwhile True: pass"]
            one = stack.enter_context(subprocess.Popen(command, stdout=subprocess.PIPE, start_new_session=True))
            stack.callback(one.kill)
            assert one.stdout is not None
            one.stdout.readline()
        yield


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--network", default="WRN-40-1", help="trained at batch 128 in bf16")
    parser.add_argument("--busy", type=int, default=1, help="busy processes beside the training")
    parser.add_argument("--repeats", type=int, default=5)
    options = parser.parse_args()
    measured: dict[tuple[str, str], list[float]] = {}
    with ExitStack() as stack:
        twins = {
            name: [stack.enter_context(child(start, *setting)) for _ in range(2)] for name, setting in SETTINGS.items()
        }
        for number in range(options.repeats):
            print(f"round {number + 1} of {options.repeats}", file=sys.stderr)
            for beside in ("alone", "busy", "twin"):
                with busy(options.busy) if beside == "busy" else nullcontext():
                    for name, pair in twins.items():
                        asked = pair if beside == "twin" else pair[:1]
                        each = [one.submit(milliseconds, options.network, SETTINGS[name][1]) for one in asked]
                        measured.setdefault((name, beside), []).append(mean(one.result() for one in each))
    print("| threads wait by | alone, ms | beside busy | ratio | two at once | ratio |")
    print("| --- | --- | --- | --- | --- | --- |")
    for name in SETTINGS:
        alone, beside_busy, twin = (spread(measured[name, beside]) for beside in ("alone", "busy", "twin"))
        ratios = [f"{each.median / alone.median:.2f}" for each in (beside_busy, twin)]
        print(f"| {name} | {alone} | {beside_busy} | {ratios[0]} | {twin} | {ratios[1]} |")


if __name__ == "__main__":
    main()
