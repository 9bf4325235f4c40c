"""Processes to measure in. Nothing here imports torch before its threads are bound."""

import os
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context

from pipeline.params import Device
from pipeline.progress import say
from pipeline.runner.waiting import bind_threads


def process(prepared: bool, kernels: str = "fused", setting: Device = "auto") -> ProcessPoolExecutor:
    """A fresh process to measure in, on the device of `setting`, `prepared` as the train stage prepares its own for
    `kernels`.

    That is the allocator, repeatable kernels and, on a CPU, each thread on a core of its own while a step computes
    (pipeline/training/device.py, pipeline/runner/waiting.py). What is set there can not be taken back, so ways that
    differ in it are measured in two such processes in turn; the one that waits sleeps. A process ends with its
    executor.
    """
    return ProcessPoolExecutor(1, get_context("spawn"), initializer=_start, initargs=(prepared, kernels, setting))


def say_if_busy() -> None:
    """Say that others have been at work here in the last minute, if they have: rates would be too low."""
    load, cores = os.getloadavg()[0], len(os.sched_getaffinity(0))
    if load > cores / 4:
        say(f"others were at work here in the last minute (load {load:.1f} on {cores} cores): rates may be too low")


def _start(prepared: bool, kernels: str, setting: Device) -> None:
    if not prepared:
        return
    os.environ.setdefault("THP_MEM_ALLOC_ENABLE", "1")
    bind_threads(kernels)
    from pipeline.benchmarks import measuring
    from pipeline.training.device import prepare

    measuring.setting = setting
    prepare(measuring.device())
